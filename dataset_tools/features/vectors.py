"""Item vectors that were made elsewhere, by an API or an image model, as a feature file of a dataset."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools import __version__
from dataset_tools.common import UserError, atomic_path, write_text
from dataset_tools.features.items import Fields, read_lines
from dataset_tools.features.store import DTYPES, is_current, write_index
from dataset_tools.features.texts import read_ids

SUFFIX = "featVectors"
MISSING = ("error", "mean")
ENDINGS = (".npy", ".parquet", ".safetensors")  # any other file is taken for one of RecBole's


@dataclass(frozen=True)
class Columns:
    """Where ids and vectors stand in a file; empty takes what is there if there is no choice."""

    item: str = ""
    vector: str = ""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Columns:
        """From RecBole's ``preload_weight: {id field: vector field}``."""
        loaded = settings.get("preload_weight")
        if not isinstance(loaded, dict) or not loaded:
            return cls()
        aliases = settings.get("alias_of_item_id") or []
        items = [*aliases, str(settings.get("ITEM_ID_FIELD") or "item_id")] if isinstance(aliases, list) else []
        of_items = {str(k): str(v) for k, v in loaded.items() if k in items}
        return cls(*next(iter((of_items or {str(k): str(v) for k, v in loaded.items()}).items())))


def recbole_file(folder: Path, name: str, settings: Mapping[str, Any]) -> Path | None:
    """The additional feature file that a property file names for the items' vectors; None if it names none."""
    suffixes, columns = settings.get("additional_feat_suffix") or [], Columns.of(settings)
    paths = [folder / f"{name}.{suffix}" for suffix in ([suffixes] if isinstance(suffixes, str) else suffixes)]
    if not columns.vector or not paths:
        return None
    fields = Fields.of(settings)
    with_it = [p for p in paths if p.is_file() and columns.vector in _names(p, fields)]
    return with_it[0] if with_it else paths[0]


def _names(path: Path, fields: Fields) -> list[str]:
    lines = read_lines(path)
    return [field.split(":")[0] for field in lines[0].split(fields.field_separator)] if lines else []


def read_vectors(
    path: str | os.PathLike[str],
    ids: str | os.PathLike[str] | None = None,
    fields: Fields | None = None,
    columns: Columns | None = None,
) -> tuple[list[str], np.ndarray]:
    """Read item vectors.

    Parameters
    ----------
    path
        ``.npy``: float [n, width], with the raw ids in `ids`. ``.safetensors``: the same, or one tensor an item under its
        raw id. ``.parquet``: a column of ids and one of lists of numbers. Anything else: an atomic file of RecBole, with
        a ``token`` and a ``float_seq`` column.
    ids
        A text file with an id on each line, or ``.npy``.
    fields
        Separators of an atomic file.
    columns
        Where ids and vectors stand, in a file with several columns.

    Returns
    -------
    tuple
        Raw ids and float32 [n, width].

    Raises
    ------
    UserError
        If the file cannot be read, an id occurs twice, or the vectors are of several widths or not finite. No code in the
        file is run.
    """
    path, fields, columns = Path(path), fields or Fields(), columns or Columns()
    if not path.is_file():
        raise UserError(f"{path} is no file; give the vectors as {', '.join(ENDINGS)} or RecBole's .itememb")
    ending = path.suffix.lower()
    if ending == ".parquet":
        found, rows = _read_parquet(path, fields, columns)
    elif ending in (".npy", ".safetensors"):
        keys, rows = _read_npy(path) if ending == ".npy" else _read_safetensors(path)
        found = keys if keys is not None else _read_id_file(path, ids)
    else:
        found, rows = _read_atomic(path, fields, columns)
    if not rows.size:
        raise UserError(f"{path} holds no vectors")
    if rows.ndim != 2:
        raise UserError(f"{path} holds an array of shape {list(rows.shape)}; [items, width] is due")
    if len(found) != len(rows):
        raise UserError(f"{path} holds {len(rows)} vectors, but there are {len(found)} ids; they must be as many")
    if len(set(found)) < len(found):
        twice = next(item for item in found if found.count(item) > 1)
        raise UserError(f"{path} gives item {twice!r} more than one vector; leave one")
    if rows.dtype.kind not in "fiu":
        raise UserError(f"{path} holds values of type {rows.dtype}; numbers are due")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(rows, dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = found[int(np.flatnonzero(~finite)[0])]
        raise UserError(
            f"{path} holds NaN or infinity in {int((~finite).sum())} vectors, first of item {bad!r}; mend them"
        )
    return found, rows


def _read_id_file(path: Path, ids: str | os.PathLike[str] | None) -> list[str]:
    if ids is None:
        raise UserError(
            f"{path} has no ids; give a file with an id on each line, in the order of the vectors, by --ids"
        )
    if Path(ids).suffix.lower() == ".npy":
        return [str(item) for item in _read_npy(Path(ids))[1].ravel().tolist()]
    return [line.strip() for line in read_lines(Path(ids)) if line.strip()]


def _read_npy(path: Path) -> tuple[None, np.ndarray]:
    try:
        return None, np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no plain array that numpy can read ({error}); save it with numpy.save") from error


def _read_safetensors(path: Path) -> tuple[list[str] | None, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no safetensors file ({error})") from error
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    if len(arrays) == 1 and next(iter(arrays.values())).ndim == 2:
        return None, next(iter(arrays.values()))
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        some = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3]) or "none"
        raise UserError(
            f"{path} holds tensors of the shapes {some}; one tensor [items, width], or one [width] for each item under "
            "its id is due"
        )
    return list(arrays), np.stack(list(arrays.values()))


def _read_parquet(path: Path, fields: Fields, columns: Columns) -> tuple[list[str], np.ndarray]:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"cannot read {path} ({error}); is it a parquet file?") from error
    listed = [name for name, dtype in table.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    item = columns.item or (fields.item_id if fields.item_id in table.columns else "")
    others = [name for name in table.columns if name not in listed]
    item, vector = (
        item or _only(path, others, "ids", "--id_col"),
        columns.vector or _only(path, listed, "lists", "--vector_col"),
    )
    for name in (item, vector):
        if name not in table.columns:
            raise UserError(f"{path} has no column {name}; it holds: {', '.join(table.columns)}")
    lengths = table[vector].list.len() if isinstance(table.schema[vector], pl.List) else None
    if table[item].null_count() or table[vector].null_count():
        raise UserError(f"{path} has rows without an id or a vector; mend or remove them")
    ids = table[item].cast(pl.String).to_list()
    if lengths is not None:
        _one_width(path, ids, lengths.to_list())
    try:
        return ids, np.array(table[vector].to_list(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {vector} of {path} holds something else than numbers ({error})") from error


def _only(path: Path, names: Sequence[str], what: str, flag: str) -> str:
    if len(names) != 1:
        found = ", ".join(names) or "no such column"
        raise UserError(f"which column of {path} holds the {what} is not clear ({found}); name it by {flag}")
    return names[0]


def _one_width(path: Path, ids: Sequence[str], lengths: Sequence[int]) -> None:
    if len(set(lengths)) > 1:
        usual = max(set(lengths), key=list(lengths).count)
        at = next(i for i, n in enumerate(lengths) if n != usual)
        raise UserError(
            f"{path} gives item {ids[at]!r} a vector of width {lengths[at]}, and others one of width {usual}; all must "
            "be of one width"
        )


def _read_atomic(path: Path, fields: Fields, columns: Columns) -> tuple[list[str], np.ndarray]:
    lines = [line for line in read_lines(path) if line]
    header = [field.partition(":") for field in lines[0].split(fields.field_separator)] if lines else []
    names = [name for name, _, _ in header]
    types = {name: kind for name, _, kind in header}
    if not any(types.values()):
        raise UserError(
            f"{path} is none of {', '.join(ENDINGS)} and no atomic file of RecBole, whose first line is like "
            "item_id:token<TAB>vector:float_seq"
        )
    wanted = columns.item or (fields.item_id if fields.item_id in names else "")
    tokens = [name for name, kind in types.items() if kind == "token"]
    item = wanted or _only(path, tokens, "ids", "--id_col")
    vector = columns.vector or _only(
        path, [n for n, kind in types.items() if kind == "float_seq"], "vectors", "--vector_col"
    )
    for name in (item, vector):
        if name not in names:
            raise UserError(f"{path} has no column {name}; its header holds: {', '.join(names)}")
    at, vector_at = names.index(item), names.index(vector)
    ids: list[str] = []
    rows: list[np.ndarray] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(fields.field_separator)
        if len(cells) != len(names):
            raise UserError(
                f"{path} line {number} has {len(cells)} columns, the header {len(names)}; mend or remove it"
            )
        try:
            parts = cells[vector_at].split(fields.seq_separator)
            rows.append(np.array([float(part) for part in parts if part], dtype=np.float64))
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}; the vector must be numbers") from error
        ids.append(cells[at])
    _one_width(path, ids, [len(row) for row in rows])
    return ids, np.stack(rows) if rows else np.empty((0, 0))


def in_order(
    wanted: Sequence[str], ids: Sequence[str], rows: np.ndarray, path: Path, missing: str = "error"
) -> np.ndarray:
    """The vectors of the items `wanted`, float32 [n, width]; `missing` is ``error``, or ``mean`` of all vectors.

    Raises
    ------
    UserError
        If an item has no vector (and `missing` is ``error``), or none of them has.
    """
    row_of = {item: row for row, item in enumerate(ids)}
    places = np.array([row_of.get(item, -1) for item in wanted], dtype=np.int64)
    lacking = [item for item, place in zip(wanted, places, strict=True) if place < 0]
    if lacking and (missing == "error" or len(lacking) == len(wanted)):
        none = f" (its own ids are like {ids[0]!r})" if len(lacking) == len(wanted) else ""
        mend = "" if none else ", or take the mean for them by --missing mean"
        raise UserError(
            f"{path} has no vector for {len(lacking)} of {len(wanted)} items, first {lacking[0]!r}{none}; add them{mend}"
        )
    out = rows[places]
    if lacking:
        print(f"{len(lacking)} of {len(wanted)} items have no vector in {path}; they get the mean", file=sys.stderr)
        out[places < 0] = rows.mean(axis=0)
    return out


def import_vectors(
    folder: str | os.PathLike[str],
    name: str,
    path: str | os.PathLike[str],
    ids: str | os.PathLike[str] | None = None,
    suffix: str | None = None,
    dtype: str = "float32",
    encoder: str | None = None,
    missing: str = "error",
    overwrite: bool = False,
    fields: Fields | None = None,
    columns: Columns | None = None,
) -> Path:
    """Write vectors that were made elsewhere as `NAME.SUFFIX`, with its description beside it.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files.
    path, ids, fields, columns
        See `read_vectors`.
    suffix
        None: ``featVectors``.
    dtype
        ``float32`` or ``float16``, of the file.
    encoder
        Who made them, for the description; None: the name of the file.
    missing
        ``error``, or ``mean``: items without a vector get the mean of all.
    overwrite
        Replace the file, whatever made it.

    Raises
    ------
    UserError
        As `read_vectors`; if an item has no vector; if another file of the name is there.
    """
    folder, path = Path(folder), Path(path)
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    if missing not in MISSING:
        raise UserError(f"unknown choice {missing!r} for missing vectors; use one of {', '.join(MISSING)}")
    found, rows = read_vectors(path, ids, fields, columns)
    indexed = any((folder / f"{name}.{ending}").is_file() for ending in ("item2index", "text", "item"))
    items = read_ids(folder, name, fields) if indexed else found
    vectors = in_order(items, found, rows, path, missing)
    extra = len(set(found) - set(items))
    if extra:
        print(f"{extra} vectors of {path} are of items that {name} does not have; they are left out", file=sys.stderr)
    if dtype == "float16" and np.abs(vectors).max() > np.finfo(np.float16).max:
        raise UserError(f"a vector has values beyond {dtype}; use --dtype float32")
    target = folder / f"{name}.{suffix or SUFFIX}"
    meta: dict[str, object] = {
        "encoder": encoder or f"vectors of {path.name}",
        "pooling": "none",
        "max_length": 0,
        "prompt": "",
        "precision": "fp32",
        "vectors": path.name,
        "rows": len(items),
        "width": int(vectors.shape[1]),
        "dtype": dtype,
        "text_cols": [],
        "vectors_sha256": _digest(items, vectors),
        "tool_version": __version__,
    }
    if not overwrite and is_current(target, target, meta):
        return target
    write_index(folder / f"{name}.item2index", items)
    beside = target.with_name(target.name + ".json")
    beside.unlink(missing_ok=True)  # it describes the old file
    target.with_name(target.name + ".npz").unlink(missing_ok=True)  # and so does a fitted encoder
    with atomic_path(target) as temporary:
        vectors.astype(DTYPES[dtype]).tofile(temporary)
    write_text(beside, json.dumps(meta, indent=2) + "\n")
    return target


def _digest(items: Sequence[str], vectors: np.ndarray) -> str:
    digest = hashlib.sha256("\n".join(items).encode())
    digest.update(vectors.data)
    return digest.hexdigest()
