"""The feature file of a dataset, `NAME.feat1CLS`, and the JSON beside it that says how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset_tools import __version__, lsa
from dataset_tools.arguments import POOLINGS
from dataset_tools.common import UserError, atomic_path, write_text
from dataset_tools.features.encoder import TextEncoder
from dataset_tools.features.items import TEXT, Fields, header_names, warn
from dataset_tools.features.own import read_own
from dataset_tools.features.pieces import Pieces
from dataset_tools.features.ranks import Ranks
from dataset_tools.features.shards import SETTINGS, assemble, encode_shards, open_parts
from dataset_tools.features.texts import Texts, drop_words, item_file, read_items

COLUMNS = "its text is of other columns"
DTYPES = {"float32": np.float32, "float16": np.float16}


def _texts_hash(found: Texts) -> str:
    digest = hashlib.sha256()
    for item, text in zip(found.ids, found.texts, strict=True):
        digest.update(f"{item}\t{text}\n".encode())
    return digest.hexdigest()


def read_description(path: Path) -> dict[str, object] | str:
    """The JSON beside a feature file, or why there is none that can be read."""
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return f"there is no {beside.name} to say how it was made"
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        return f"{beside.name} is not valid JSON"
    return found if isinstance(found, dict) else f"{beside.name} does not hold a JSON object"


def recorded_columns(path: Path) -> tuple[str, ...] | None:
    """The columns whose text a feature file was made from; None where it does not say."""
    found = read_description(path)
    columns = found.get("text_cols") if isinstance(found, dict) else None
    return tuple(map(str, columns)) if isinstance(columns, list) and columns else None


def as_recorded(folder: Path, name: str, path: Path, fields: Fields | None) -> Fields:
    """`fields`, with the columns that `path` was made from where none are named and those are still there."""
    fields = fields or Fields()
    columns = recorded_columns(path)
    if fields.text_cols is not None or columns in (None, (TEXT,)):
        return fields
    again = replace(fields, text_cols=columns)
    source = item_file(folder, name, again)
    return again if set(columns or ()) <= set(header_names(source, again)) else fields


def _differs(path: Path, meta: dict[str, object]) -> str:
    """What keeps `path` from being the file that `meta` describes; empty if nothing does, `COLUMNS` for others."""
    found = read_description(path)
    if isinstance(found, str):
        return found
    found = {"text_cols": [TEXT], "ngrams": "auto", **found}  # files of before it was recorded
    others = [key for key, wanted in meta.items() if key != "tool_version" and found.get(key) != wanted]
    if "text_cols" in others and set(others) <= {"text_cols", "texts_sha256"}:
        return COLUMNS
    for key in others:
        if key.endswith("sha256"):
            what = {"texts_sha256": "its texts are others", "vectors_sha256": "its vectors are others"}
            return what.get(key, "its encoder has other weights")
        return f"its {key} is {found.get(key)!r}, not {meta[key]!r}"
    size = int(str(found["rows"])) * int(str(found.get("width", 0))) * np.dtype(DTYPES[str(meta["dtype"])]).itemsize
    return "" if path.stat().st_size == size > 0 else f"it holds {path.stat().st_size} bytes, not {size}"


def is_current(path: Path, parts: Path, meta: dict[str, object]) -> bool:
    """Whether `path` is there as `meta` describes it, or may be written.

    Raises
    ------
    UserError
        If there is another file, and it is not one that a stopped run with these settings was to replace, or one that
        differs in nothing but the columns whose text it was made from.
    """
    if not path.is_file():
        return False
    difference = _differs(path, meta)
    if not difference:
        return True
    if difference == COLUMNS:
        before, now = recorded_columns(path) or (TEXT,), meta["text_cols"]
        assert isinstance(now, list)
        print(f"{path.name} was made from {', '.join(before)}; it is made anew from {', '.join(now)}", file=sys.stderr)
        return False
    try:
        if json.loads((parts / SETTINGS).read_text(encoding="utf-8"))["meta"] == meta:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no run was stopped here
    raise UserError(
        f"{path} is there already, and {difference}; replace it with `python -m dataset_tools.features {path.parent} "
        "--overwrite` and your settings, or write beside it with --suffix"
    )


def encode_dataset(
    folder: str | os.PathLike[str],
    name: str,
    encoder: str = "bert-base-uncased",
    pooling: str | None = None,
    suffix: str | None = None,
    word_drop: float = 0.0,
    seed: int = 2020,
    precision: str = "fp32",
    max_length: int = 512,
    prompt: str | None = None,
    dtype: str = "float32",
    progress: bool = True,
    overwrite: bool = False,
    fields: Fields | None = None,
    ngrams: str = "auto",
) -> Path:
    """Encode the item texts of a dataset to `NAME.SUFFIX`, with its description `NAME.SUFFIX.json` beside it.

    A run that was killed goes on where it stopped. A file made from the same texts with the same settings is left as
    it is, and one made from other columns is made anew; any other file of the name is refused without `overwrite`.
    Under ``torchrun`` the work is shared by all processes (which must see the same folder) and the result is, byte for
    byte, that of one process with as many threads.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files; see `read_texts` for what is read.
    encoder, pooling, max_length, prompt, precision
        See `TextEncoder.load`. Pooling and prompt of None are what the encoder's own files say (see `own`), else ``CLS``
        and no prompt; always so for ``minilm``.
    suffix
        None: ``feat1CLS`` and so on by the pooling; ``feat2CLS`` with `word_drop`.
    word_drop, seed
        Each word is left out with this probability (see `drop_words`).
    dtype
        ``float32`` or ``float16``, of the file.
    progress
        Show a bar with texts a second and the time left.
    overwrite
        Encode again, whatever file is there.
    fields
        Names and separators of the item file, and the columns that make the text. Where no columns are named, those
        that the file was made from before are taken again.
    ngrams
        Of the encoder ``lsa``, see `dataset_tools.lsa.words_and_pieces`.

    Returns
    -------
    Path
        The file: raw rows [n_items, width] by item index, without header.

    Raises
    ------
    UserError
        On bad settings, texts that cannot be read, an encoder that cannot be loaded or gives NaN, a file that is there
        and was made otherwise. The final file is whole or as it was before.

    Examples
    --------
    >>> from pathlib import Path
    >>> path = encode_dataset(Path("dataset/ring"), "ring", encoder="lsa", progress=False)
    >>> path.name, path.with_name("ring.feat1LSA.npz").is_file()
    ('ring.feat1LSA', True)
    """
    folder = Path(folder)
    if pooling is not None and pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    if not 0 <= word_drop < 1:
        raise UserError(f"word_drop is {word_drop}; it is a probability, at least 0 and below 1")
    fitted = encoder == lsa.NAME or encoder.endswith(".npz")
    pooling, prompt = ("CLS", "") if fitted else _use(encoder, pooling, prompt)
    path = folder / f"{name}.{suffix or f'feat{2 if word_drop else 1}{lsa.SUFFIX if fitted else pooling}'}"
    beside = path.with_name(path.name + ".json")
    with Ranks() as ranks:
        found = read_items(folder, name, fields if overwrite else as_recorded(folder, name, path, fields))
        if found.chosen and ranks.rank == 0:
            print(found.chosen, file=sys.stderr)
        if fitted:
            if ranks.rank == 0:
                _encode_fitted(path, found, encoder, word_drop, seed, dtype, overwrite, ngrams)
            ranks.meet()
            return path
        local = Path(encoder).is_dir()
        meta: dict[str, object] = {
            "encoder": str(Path(encoder).resolve()) if local else encoder,
            "pooling": pooling,
            "max_length": max_length,
            "prompt": prompt,
            "precision": precision,
            **_made_from(found, word_drop, seed, dtype),
        }
        model = None
        if local:  # its weights may have changed under the same name
            model = TextEncoder.load(encoder, pooling, max_length, prompt, precision)
            meta["weights_sha256"] = model.weights_sha256
        parts = path.with_name(f".{path.name}.parts")
        if ranks.share(not overwrite and is_current(path, parts, meta)):
            return path
        if ranks.rank == 0:
            write_index(folder / f"{name}.item2index", found.ids)
        texts = drop_words(found.texts, word_drop, seed) if word_drop else found.texts
        model = model or TextEncoder.load(encoder, pooling, max_length, prompt, precision)
        tokens = model.tokenize(texts)
        pieces = Pieces.of(model.tokenizer, tokens.ids)
        if ranks.rank == 0 and (said := pieces.warning(encoder)):
            warn(said)
        open_parts(parts, meta, model, tokens, ranks)
        encode_shards(model, tokens, parts, ranks, progress)
        ranks.meet()
        if ranks.rank == 0:
            beside.unlink(missing_ok=True)  # it describes the old file
            assemble(path, tokens, parts, model.width, DTYPES[dtype])
            meta |= {"width": model.width, "weights_sha256": model.weights_sha256}
            meta |= {"unknown_pieces": round(pieces.unknown, 4), "one_letter_pieces": round(pieces.single, 4)}
            write_text(beside, json.dumps(meta, indent=2) + "\n")
            shutil.rmtree(parts, ignore_errors=True)
        ranks.meet()
    return path


def _use(encoder: str, pooling: str | None, prompt: str | None) -> tuple[str, str]:
    """Pooling and prompt: as given, else as the encoder's own files say, else the paper's."""
    if encoder == "minilm" or (pooling is not None and prompt is not None):
        return pooling or "CLS", prompt or ""
    own = read_own(encoder)
    taken = []
    if pooling is None and own.pooling is not None:
        taken.append(f"pooling {own.pooling}")
    if prompt is None and own.prompt is not None:
        taken.append(f"prompt {own.prompt!r}")
    if taken and not int(os.environ.get("RANK", 0)):
        print(
            f"{encoder}: {' and '.join(taken)}, as its own files say (--pooling and --prompt overrule)", file=sys.stderr
        )
    return pooling or own.pooling or "CLS", (own.prompt or "") if prompt is None else prompt


def write_index(path: Path, ids: Sequence[str]) -> None:
    """Write `NAME.item2index`, if it is not there."""
    if not path.is_file():
        write_text(path, "".join(f"{item}\t{i}\n" for i, item in enumerate(ids)))


def _made_from(found: Texts, word_drop: float, seed: int, dtype: str) -> dict[str, object]:
    """What is said beside features of any encoder."""
    return {
        "word_drop": word_drop,
        "seed": seed,
        "rows": len(found.texts),
        "dtype": dtype,
        "text_cols": list(found.columns),
        "texts_sha256": _texts_hash(found),
        "tool_version": __version__,
    }


def _encode_fitted(
    path: Path, found: Texts, encoder: str, word_drop: float, seed: int, dtype: str, overwrite: bool, ngrams: str
) -> None:
    """`encode_dataset` with latent semantics, fitted here (and kept beside the features) or read from a file."""
    kept = path.with_name(path.name + ".npz")
    here = encoder == lsa.NAME
    if here and word_drop:
        raise UserError(
            f"words are dropped for an encoder that was fitted to the whole texts; make those features first, then give "
            f"--encoder {path.with_name(path.name.replace('.feat2', '.feat1') + '.npz')}"
        )
    model = None
    if not here or (kept.is_file() and path.is_file() and not overwrite):
        model = lsa.LatentSemantics.load(kept if here else encoder)
    meta: dict[str, object] = {
        "encoder": model.name if model else lsa.NAME,
        "pooling": "none",
        "max_length": 0,
        "prompt": "",
        "precision": "fp32",
        **_made_from(found, word_drop, seed, dtype),
    }
    if here:
        meta["ngrams"] = ngrams
    if not overwrite and is_current(path, kept, meta):
        return
    if here or model is None:  # what is there was fitted to other texts
        model = lsa.LatentSemantics.fit(found.texts, ngrams=ngrams)
        if model.ngrams == lsa.SHORT:
            print(
                f"lsa: the {len(found.texts)} texts are nearly equal, so a word of a single product counts too, and so does a "
                f"single letter; a vector has {model.width} numbers, not {lsa.WIDTH}",
                file=sys.stderr,
            )
    write_index(path.with_name(f"{path.name.rpartition('.')[0]}.item2index"), found.ids)
    vectors = model.encode(drop_words(found.texts, word_drop, seed) if word_drop else found.texts)
    beside = path.with_name(path.name + ".json")
    beside.unlink(missing_ok=True)  # it describes the old file
    if not (kept.is_file() and Path(encoder).exists() and kept.samefile(encoder)):
        model.save(kept)
    with atomic_path(path) as temporary:
        vectors.astype(DTYPES[dtype]).tofile(temporary)
    meta |= {"encoder": model.name, "width": model.width, "weights_sha256": model.weights_sha256}
    write_text(beside, json.dumps(meta, indent=2) + "\n")
