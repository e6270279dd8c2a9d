"""The feature file of a dataset, `NAME.feat1CLS`, and the JSON beside it that says how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_tools import __version__, lsa
from dataset_tools.arguments import POOLINGS
from dataset_tools.common import UserError, atomic_path, write_text
from dataset_tools.features.encoder import TextEncoder
from dataset_tools.features.ranks import Ranks
from dataset_tools.features.shards import SETTINGS, assemble, encode_shards, open_parts
from dataset_tools.features.texts import drop_words, read_texts

DTYPES = {"float32": np.float32, "float16": np.float16}


def _texts_hash(ids: Sequence[str], texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for item, text in zip(ids, texts, strict=True):
        digest.update(f"{item}\t{text}\n".encode())
    return digest.hexdigest()


def _differs(path: Path, meta: dict[str, object]) -> str:
    """What keeps `path` from being the file that `meta` describes; empty if nothing does."""
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return f"there is no {beside.name} to say how it was made"
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        return f"{beside.name} is not valid JSON"
    if not isinstance(found, dict):
        return f"{beside.name} does not hold a JSON object"
    for key, wanted in meta.items():
        if key != "tool_version" and found.get(key) != wanted:
            if key.endswith("sha256"):
                return "its texts are others" if key == "texts_sha256" else "its encoder has other weights"
            return f"its {key} is {found.get(key)!r}, not {wanted!r}"
    size = int(found["rows"]) * int(found.get("width", 0)) * np.dtype(DTYPES[str(meta["dtype"])]).itemsize
    return "" if path.stat().st_size == size > 0 else f"it holds {path.stat().st_size} bytes, not {size}"


def _is_current(path: Path, parts: Path, meta: dict[str, object]) -> bool:
    """Whether `path` is there as `meta` describes it, or may be written.

    Raises
    ------
    UserError
        If there is another file, and it is not one that a stopped run with these settings was to replace.
    """
    if not path.is_file():
        return False
    difference = _differs(path, meta)
    if not difference:
        return True
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
    pooling: str = "CLS",
    suffix: str | None = None,
    word_drop: float = 0.0,
    seed: int = 2020,
    precision: str = "fp32",
    max_length: int = 512,
    prompt: str = "",
    dtype: str = "float32",
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Encode the item texts of a dataset to `NAME.SUFFIX`, with its description `NAME.SUFFIX.json` beside it.

    A run that was killed goes on where it stopped. A file made from the same texts with the same settings is left as
    it is; any other file of the name is refused without `overwrite`. Under ``torchrun`` the work is shared by all processes (which must see the same folder) and the result is,
    byte for byte, that of one process with as many threads.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files; see `read_texts` for what is read.
    encoder, pooling, max_length, prompt, precision
        See `TextEncoder.load`.
    suffix
        None: ``feat1CLS`` or ``feat1Mean``; ``feat2CLS`` or ``feat2Mean`` with `word_drop`.
    word_drop, seed
        Each word is left out with this probability (see `drop_words`).
    dtype
        ``float32`` or ``float16``, of the file.
    progress
        Show a bar with texts a second and the time left.
    overwrite
        Encode again, whatever file is there.

    Returns
    -------
    Path
        The file: raw rows [n_items, width] by item index, without header.

    Raises
    ------
    UserError
        On bad settings, texts that cannot be read, an encoder that cannot be loaded or gives NaN, a file that is there
        and was made otherwise. The final file is whole or as it was before.
    """
    folder = Path(folder)
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    if not 0 <= word_drop < 1:
        raise UserError(f"word_drop is {word_drop}; it is a probability, at least 0 and below 1")
    fitted = encoder == lsa.NAME or encoder.endswith(".npz")
    path = folder / f"{name}.{suffix or f'feat{2 if word_drop else 1}{lsa.SUFFIX if fitted else pooling}'}"
    beside = path.with_name(path.name + ".json")
    with Ranks() as ranks:
        ids, texts = read_texts(folder, name)
        if fitted:
            if ranks.rank == 0:
                _encode_fitted(path, ids, texts, encoder, word_drop, seed, dtype, overwrite)
            ranks.meet()
            return path
        local = Path(encoder).is_dir()
        meta: dict[str, object] = {
            "encoder": str(Path(encoder).resolve()) if local else encoder,
            "pooling": pooling,
            "max_length": max_length,
            "prompt": prompt,
            "precision": precision,
            **_made_from(ids, texts, word_drop, seed, dtype),
        }
        model = None
        if local:  # its weights may have changed under the same name
            model = TextEncoder.load(encoder, pooling, max_length, prompt, precision)
            meta["weights_sha256"] = model.weights_sha256
        parts = path.with_name(f".{path.name}.parts")
        if ranks.share(not overwrite and _is_current(path, parts, meta)):
            return path
        if ranks.rank == 0:
            _write_index(folder / f"{name}.item2index", ids)
        if word_drop:
            texts = drop_words(texts, word_drop, seed)
        model = model or TextEncoder.load(encoder, pooling, max_length, prompt, precision)
        tokens = model.tokenize(texts)
        open_parts(parts, meta, model, tokens, ranks)
        encode_shards(model, tokens, parts, ranks, progress)
        ranks.meet()
        if ranks.rank == 0:
            beside.unlink(missing_ok=True)  # it describes the old file
            assemble(path, tokens, parts, model.width, DTYPES[dtype])
            meta |= {"width": model.width, "weights_sha256": model.weights_sha256}
            write_text(beside, json.dumps(meta, indent=2) + "\n")
            shutil.rmtree(parts, ignore_errors=True)
        ranks.meet()
    return path


def _write_index(path: Path, ids: Sequence[str]) -> None:
    if not path.is_file():
        write_text(path, "".join(f"{item}\t{i}\n" for i, item in enumerate(ids)))


def _made_from(ids: Sequence[str], texts: Sequence[str], word_drop: float, seed: int, dtype: str) -> dict[str, object]:
    """What is said beside features of any encoder."""
    return {
        "word_drop": word_drop,
        "seed": seed,
        "rows": len(texts),
        "dtype": dtype,
        "texts_sha256": _texts_hash(ids, texts),
        "tool_version": __version__,
    }


def _encode_fitted(
    path: Path,
    ids: Sequence[str],
    texts: Sequence[str],
    encoder: str,
    word_drop: float,
    seed: int,
    dtype: str,
    overwrite: bool,
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
        **_made_from(ids, texts, word_drop, seed, dtype),
    }
    if not overwrite and _is_current(path, kept, meta):
        return
    model = model or lsa.LatentSemantics.fit(texts)
    _write_index(path.with_name(f"{path.name.rpartition('.')[0]}.item2index"), ids)
    vectors = model.encode(drop_words(texts, word_drop, seed) if word_drop else texts)
    beside = path.with_name(path.name + ".json")
    beside.unlink(missing_ok=True)  # it describes the old file
    if not (kept.is_file() and Path(encoder).exists() and kept.samefile(encoder)):
        model.save(kept)
    with atomic_path(path) as temporary:
        vectors.astype(DTYPES[dtype]).tofile(temporary)
    meta |= {"encoder": model.name, "width": model.width, "weights_sha256": model.weights_sha256}
    write_text(beside, json.dumps(meta, indent=2) + "\n")
