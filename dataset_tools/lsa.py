"""Latent semantic analysis as a text encoder: TF-IDF and its leading singular vectors (Deerwester et al., 1990).

It is fitted to the texts of one dataset and knows their words only, so its vectors mean nothing in another dataset
unless the fitted encoder is taken along. In exchange it needs no language model and learns what tells these items apart.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import UserError, atomic_path

NAME = "lsa"
SUFFIX = "LSA"  # of feature files, where others have the pooling
WIDTH = 384
ITERATIONS = 7  # of the randomised singular value decomposition
ARRAYS = ("terms", "idf", "components")


class LatentSemantics:
    """Texts to vectors; make one with `fit` or `load`.

    Attributes
    ----------
    width
        d_plm, the length of a vector.
    name
        ``lsa`` and the beginning of the fingerprint, since two fitted encoders are not comparable.
    weights_sha256
        Fingerprint of terms and numbers.
    pooling, max_length, prompt, precision
        What a language model has (`features.TextEncoder`); without meaning here.
    """

    pooling, max_length, prompt, precision = "none", 0, "", "fp32"

    def __init__(self, terms: Sequence[str], idf: np.ndarray, components: np.ndarray) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.terms, self.idf, self.components = list(terms), idf, components
        self.width = components.shape[0]
        self._vectorizer = TfidfVectorizer(sublinear_tf=True, vocabulary={t: i for i, t in enumerate(self.terms)})
        self._vectorizer.idf_ = idf
        digest = hashlib.sha256("\n".join(self.terms).encode())
        for array in (idf, components):
            digest.update(np.ascontiguousarray(array).data)
        self.weights_sha256 = digest.hexdigest()
        self.name = f"{NAME}-{self.weights_sha256[:12]}"

    @classmethod
    def fit(cls, texts: Sequence[str], width: int = WIDTH, seed: int = 0) -> LatentSemantics:
        """Learn terms, their weights and the leading singular vectors.

        Parameters
        ----------
        texts
            Of the items; terms of a single text are left out.
        width
            Singular vectors wanted; small collections have fewer.
        seed
            Of the randomised decomposition.

        Raises
        ------
        UserError
            If the texts share too few words.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
            table = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"no two of the {len(texts)} texts share a word ({error}); use --encoder minilm") from error
        width = min(width, min(table.shape) - 1)
        if width < 1:
            raise UserError(f"{len(texts)} texts with {table.shape[1]} terms are too few; use --encoder minilm")
        svd = TruncatedSVD(width, n_iter=ITERATIONS, random_state=seed).fit(table)
        return cls(list(vectorizer.get_feature_names_out()), vectorizer.idf_, svd.components_.astype(np.float32))

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Encode texts -> float32 [n, width]; a text without a known term becomes zero. `progress` has no use here."""
        if not len(texts):
            return np.empty((0, self.width), dtype=np.float32)
        return np.asarray(self._vectorizer.transform(texts) @ self.components.T, dtype=np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file, whole or not at all."""
        terms = np.frombuffer("\n".join(self.terms).encode(), dtype=np.uint8)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, terms=terms, idf=self.idf, components=self.components)

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
            terms = arrays["terms"].tobytes().decode().split("\n")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{Path(path)} is no fitted text encoder ({error}); {again}") from error
        idf, components = arrays["idf"], arrays["components"]
        if idf.shape != (len(terms),) or components.ndim != 2 or components.shape[1] != len(terms):
            raise UserError(
                f"{Path(path)} does not add up: {len(terms)} terms, idf {idf.shape}, components {components.shape}; {again}"
            )
        return cls(terms, idf, components)
