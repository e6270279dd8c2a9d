"""Latent semantic analysis as a text encoder: TF-IDF and its leading singular vectors (Deerwester et al., 1990).

It is fitted to the texts of one dataset and knows their words only, so its vectors mean nothing in another dataset
unless the fitted encoder is taken along. In exchange it needs no language model and learns what tells these items apart.

Scripts without blanks between words (Japanese, Chinese, Thai, ...) are cut into pairs and triples of characters, which
stand beside the words. On request all words are, for languages that put words together (German).
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import UserError, atomic_path

NAME = "lsa"
SUFFIX = "LSA"  # of feature files, where others have the pooling
WIDTH = 384
ITERATIONS = 7  # of the randomised singular value decomposition
ARRAYS = ("terms", "idf", "components")
GRAMS = (2, 3)  # characters of a piece in a script without blanks
LONG_GRAMS = (4, 5)  # of a piece of any word, on request: shorter ones say little in an alphabet
MARK = "\u2581"  # before a piece of a word, so that it is never taken for a word
WORD = re.compile(r"(?u)\b\w\w+\b")  # the words of scikit-learn
SHORT_WORD = re.compile(r"(?u)\b\w+\b")
# scripts that put no blanks between words: Thai, Lao, Myanmar, Khmer, kana, Han (with the signs of repetition)
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f]+"
)
NGRAMS = ("auto", "all", "none")  # pieces of unspaced scripts, of all words, of nothing
SHORT = "short"  # as auto, with words of one letter or digit; for a few texts that are nearly equal (Mug 1, Mug 2)
FEW = 50  # different texts at most for `SHORT`
APART = 0.75  # share of them that words of two texts or more must tell apart, else `SHORT`


def words_and_pieces(text: str, ngrams: str = "auto") -> list[str]:
    """The terms of a text: its words, and pieces of characters where a script has no blanks.

    Parameters
    ----------
    text
        Of an item.
    ngrams
        ``auto``: pieces of scripts without blanks; ``all``: of long words in any script too; ``none``: words alone;
        ``short``: as ``auto``, with words of one letter too.

    Examples
    --------
    >>> words_and_pieces("Red chair")
    ['red', 'chair']
    >>> [piece.lstrip(MARK) for piece in words_and_pieces("赤い椅子")]
    ['赤い椅子', '赤い', 'い椅', '椅子', '赤い椅', 'い椅子']
    """
    text = text.lower()
    terms: list[str] = (SHORT_WORD if ngrams == SHORT else WORD).findall(text)
    if ngrams == "none":
        return terms
    words = list(terms)
    for run in UNSPACED.findall(text):
        terms += [MARK + piece for piece in _pieces(run, GRAMS)] or [MARK + run]
    if ngrams == "all":
        for word in words:
            if not UNSPACED.search(word):
                terms += [MARK + piece for piece in _pieces(word, LONG_GRAMS) if piece != word]
    return terms


def _pieces(run: str, sizes: Sequence[int]) -> list[str]:
    return [run[at : at + size] for size in sizes for at in range(len(run) - size + 1)]


class LatentSemantics:
    """Texts to vectors; make one with `fit` or `load`.

    Attributes
    ----------
    width
        d_plm, the length of a vector.
    ngrams
        Which texts are cut into pieces of characters, see `words_and_pieces`.
    name
        ``lsa`` and the beginning of the fingerprint, since two fitted encoders are not comparable.
    weights_sha256
        Fingerprint of terms and numbers.
    pooling, max_length, prompt, precision
        What a language model has (`features.TextEncoder`); without meaning here.
    """

    pooling, max_length, prompt, precision = "none", 0, "", "fp32"

    def __init__(self, terms: Sequence[str], idf: np.ndarray, components: np.ndarray, ngrams: str = "none") -> None:
        self.terms, self.idf, self.components, self.ngrams = list(terms), idf, components, ngrams
        self.width = components.shape[0]
        self._vectorizer = _vectorizer(ngrams, vocabulary={t: i for i, t in enumerate(self.terms)})
        self._vectorizer.idf_ = idf
        digest = hashlib.sha256("\n".join(self.terms).encode())
        for array in (idf, components):
            digest.update(np.ascontiguousarray(array).data)
        if ngrams != "none":  # files of before have none, and their fingerprint stays
            digest.update(ngrams.encode())
        self.weights_sha256 = digest.hexdigest()
        self.name = f"{NAME}-{self.weights_sha256[:12]}"

    @classmethod
    def fit(cls, texts: Sequence[str], width: int = WIDTH, seed: int = 0, ngrams: str = "auto") -> LatentSemantics:
        """Learn terms, their weights and the leading singular vectors.

        Parameters
        ----------
        texts
            Of the items. Terms of a single text are left out, but where there are `FEW` different texts at most and the
            other terms tell fewer than `APART` of them apart.
        width
            Singular vectors wanted; small collections have fewer.
        seed
            Of the randomised decomposition.
        ngrams
            See `words_and_pieces`; ``auto`` is ``none`` where no text has a script without blanks.

        Raises
        ------
        UserError
            If the texts share too few words, say all the same, or `ngrams` is unknown.
        """
        from sklearn.decomposition import TruncatedSVD

        if ngrams not in NGRAMS:
            raise UserError(f"unknown choice of pieces {ngrams!r}; use one of {', '.join(NGRAMS)}")
        if ngrams == "auto" and not any(UNSPACED.search(text) for text in texts):
            ngrams = "none"
        try:
            vectorizer = _vectorizer(ngrams, min_df=2)
            table = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"no two of the {len(texts)} texts share a word ({error}); use --encoder minilm") from error
        unlike = sorted(set(texts))
        if len(unlike) <= FEW and _different(vectorizer, unlike) < max(2, APART * len(unlike)):
            vectorizer, ngrams = _vectorizer(SHORT, min_df=1), SHORT
            table = vectorizer.fit_transform(texts)
            rank = min(table.shape)
            if _different(vectorizer, unlike) < 2:
                raise UserError(
                    f"the {len(texts)} texts have the same words, so they do not tell the products apart; name more columns "
                    "with --text_cols, or use --encoder minilm"
                )
        else:
            rank = min(table.shape) - 1
        if rank < 1:
            raise UserError(f"{len(texts)} texts with {table.shape[1]} terms are too few; use --encoder minilm")
        svd = TruncatedSVD(min(width, rank), n_iter=ITERATIONS, random_state=seed).fit(table)
        return cls(
            list(vectorizer.get_feature_names_out()), vectorizer.idf_, svd.components_.astype(np.float32), ngrams
        )

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Encode texts -> float32 [n, width]; a text without a known term becomes zero. `progress` has no use here."""
        if not len(texts):
            return np.empty((0, self.width), dtype=np.float32)
        return np.asarray(self._vectorizer.transform(texts) @ self.components.T, dtype=np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file, whole or not at all."""
        terms = np.frombuffer("\n".join(self.terms).encode(), dtype=np.uint8)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            arrays = {"terms": terms, "idf": self.idf, "components": self.components}
            if self.ngrams != "none":
                arrays["ngrams"] = np.frombuffer(self.ngrams.encode(), dtype=np.uint8)
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatentSemantics:
        """Read a file that `save` wrote; runs no code from it.

        Raises
        ------
        UserError
            If it is missing, torn or something else.
        """
        again = "make it again with `python -m dataset_tools.features FOLDER --encoder lsa`"
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays: dict[str, Any] = {name: found[name] for name in ARRAYS}
                ngrams = found["ngrams"].tobytes().decode() if "ngrams" in found else "none"
            terms = arrays["terms"].tobytes().decode().split("\n")
            if ngrams not in (*NGRAMS, SHORT):
                raise ValueError(f"unknown pieces {ngrams!r}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{Path(path)} is no fitted text encoder ({error}); {again}") from error
        idf, components = arrays["idf"], arrays["components"]
        if idf.shape != (len(terms),) or components.ndim != 2 or components.shape[1] != len(terms):
            raise UserError(
                f"{Path(path)} does not add up: {len(terms)} terms, idf {idf.shape}, components {components.shape}; {again}"
            )
        return cls(terms, idf, components, ngrams)


def _different(vectorizer: Any, texts: Sequence[str]) -> int:
    """How many of the texts have a vector that no other has, one of those that are equal counted too."""
    return len(np.unique(vectorizer.transform(texts).toarray().round(6), axis=0))


def _vectorizer(ngrams: str, **settings: Any) -> Any:
    """TF-IDF over the terms of `words_and_pieces`; without pieces, scikit-learn's own words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if ngrams == "none":
        return TfidfVectorizer(sublinear_tf=True, **settings)
    return TfidfVectorizer(sublinear_tf=True, analyzer=partial(words_and_pieces, ngrams=ngrams), **settings)
