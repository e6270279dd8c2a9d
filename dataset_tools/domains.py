"""Read one prepared dataset as a domain of a mixture: whole sequences as item indices, and what made its features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import UserError
from dataset_tools.features import DTYPES, read_ids

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Domain:
    """The sequences of one dataset.

    Attributes
    ----------
    name, folder
        Of the dataset.
    n_items
        Items in its index.
    items
        int32 [n_interactions], indices within the domain, user after user in time order.
    offsets
        int64 [n_users + 1].
    features
        Description of each feature file by its suffix.
    """

    name: str
    folder: Path
    n_items: int
    items: np.ndarray
    offsets: np.ndarray
    features: dict[str, dict[str, Any]]


READ = {"user_id", "item_id", "timestamp", "item_id_list"}  # of the interactions


def unused_columns(folder: Path) -> tuple[str, ...]:
    """Columns of a domain's interactions that a mixture leaves out (ratings, for example), from the headers alone."""
    name, found = folder.name, []
    for path in (folder / f"{name}.inter", *(folder / f"{name}.{split}.inter" for split in SPLITS)):
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                found += [field.split(":")[0] for field in file.readline().rstrip("\r\n").split("\t")]
            if path.name == f"{name}.inter":  # the split files are not read then
                break
    return tuple(dict.fromkeys(column for column in found if column not in READ))


def _read_columns(path: Path, columns: dict[str, Any]) -> Any:
    """The named columns of an atomic file as a polars LazyFrame, whatever types their headers name."""
    import polars as pl

    try:
        with open(path, "rb") as file:
            header = file.readline().decode("utf-8", errors="replace").rstrip("\r\n")
            bare = not file.read(1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    fields = [field.split(":")[0] for field in header.split("\t")]
    missing = [column for column in columns if column not in fields]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; its header holds: {', '.join(fields)}")
    if bare:  # polars before 1.38 loses the columns of a file without rows
        return pl.LazyFrame(schema=columns)
    return pl.scan_csv(
        path,
        separator="\t",
        quote_char=None,
        has_header=False,
        skip_rows=1,
        schema={field: columns.get(field, pl.String) for field in fields},
    ).select(list(columns))


def _collect(frame: Any, path: Path, may_be_empty: bool = False) -> Any:
    """Run a query in the streaming engine, so that only its result is in memory."""
    import polars as pl

    try:
        found = frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot read {path} ({reason}); mend or remove the broken rows") from error
    if found.is_empty() and not may_be_empty:
        raise UserError(f"{path} holds no rows")
    if sum(found.null_count().row(0)):
        raise UserError(f"{path} holds rows with empty fields; mend or remove them")
    return found


def _to_index(items: Any, ids: list[str], path: Path, by_number: bool = False) -> np.ndarray:
    """Index of each raw id, int32; with `by_number` the tokens are the indices already."""
    import polars as pl

    if by_number:
        index = items.cast(pl.Int32, strict=False)
        index = index.set((index < 0) | (index >= len(ids)), None)
    else:
        table = pl.DataFrame({"id": ids, "index": pl.Series(range(len(ids)), dtype=pl.Int32)})
        index = items.to_frame("id").join(table, on="id", how="left", maintain_order="left")["index"]
    unknown = index.is_null()
    if unknown.any():
        where = f"the index 0 to {len(ids) - 1}" if by_number else "NAME.item2index or NAME.item"
        first = items.filter(unknown)[0]
        raise UserError(f"{path} holds an item without index, {first!r} is not in {where}; prepare it again")
    return index.to_numpy()


def _read_standard(path: Path, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences from `NAME.inter`: items and offsets."""
    import polars as pl

    rows = _collect(_read_columns(path, {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64}), path)
    items = _to_index(rows["item_id"], ids, path)
    # the rank of a user's first row: users stay in the order of the file
    user = rows["user_id"].rle_id() if rows["user_id"].is_sorted() else _first_seen(rows["user_id"])
    order = np.lexsort((rows["timestamp"].to_numpy(), user.to_numpy()))  # stable
    return items[order], _offsets(user.to_numpy())


def _first_seen(users: Any) -> Any:
    """Number of each user, in the order of their first rows."""
    import polars as pl

    names = users.unique(maintain_order=True)
    table = pl.DataFrame({"user": names, "number": pl.Series(range(len(names)), dtype=pl.UInt32)})
    return users.to_frame("user").join(table, on="user", how="left", maintain_order="left")["number"]


def _offsets(users: np.ndarray) -> np.ndarray:
    counts = np.bincount(users)
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _read_splits(folder: Path, name: str, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences from the authors' split files, in which every prefix of a sequence is a row.

    Of a row only the target and the ends of the history are kept: the targets, the latest first, are the training
    sequence but for its first item, which is the history of the shortest row. Histories that were cut to their last 50
    items do no harm.
    """
    import polars as pl

    history = pl.col("item_id_list")
    frames = []
    for split in SPLITS:
        path = folder / f"{name}.{split}.inter"
        if not path.is_file():
            raise UserError(f"{path} does not exist, but the domain has {name}.train.inter; add the missing split")
        rows = _read_columns(path, {"user_id": pl.String, "item_id_list": pl.String, "item_id": pl.String})
        rows = rows.select(
            "user_id",
            pl.col("item_id").alias("target"),
            history.str.extract(r"^(\S+)").alias("first"),
            history.str.extract(r"(\S+)$").alias("last"),
            (history.str.count_matches(" ") + 1).alias("length"),
        )
        # sequences of three leave no training rows
        frames.append(_collect(rows, path, may_be_empty=split == "train"))
    where = folder / f"{name}.train.inter"
    # in the order of time: training targets, valid target, test target
    rows = pl.concat([frames[0].reverse(), *frames[1:]])
    number = r"^\d+$"
    by_number = bool(rows["target"].str.contains(number).all() and rows["first"].str.contains(number).all())
    if by_number and any(item.isdecimal() for item in ids):
        # numbers may be raw ids as well; those that fit are indices, as the authors write them
        by_number = rows["target"].cast(pl.Int64).max() < len(ids)
    # every user has a row in the last file, which is in their order
    names = pl.concat([frame["user_id"] for frame in reversed(frames)])
    users = names.unique(maintain_order=True)
    table = pl.DataFrame({"user_id": users, "user": pl.Series(range(len(users)), dtype=pl.UInt32)})
    rows = rows.join(table, on="user_id", how="left", maintain_order="left").drop("user_id")
    rows = rows.sort("user", maintain_order=True)
    user = rows["user"].to_numpy()
    heads = np.flatnonzero(np.diff(user, prepend=-1))
    if (rows["length"].to_numpy()[heads] != 1).any():
        broken = users[int(user[heads[np.flatnonzero(rows["length"].to_numpy()[heads] != 1)[0]]])]
        raise UserError(
            f"{where} is not in the authors' layout: user {broken!r} has no row with a history of one item, or rows "
            "out of order; prepare the domain again"
        )
    anywhere = folder / f"{name}.*.inter"
    target = _to_index(rows["target"], ids, anywhere, by_number)
    last = _to_index(rows["last"], ids, anywhere, by_number)
    first = _to_index(rows["first"][heads], ids, anywhere, by_number)
    follows = np.ones(len(user), dtype=bool)
    follows[heads] = False
    follows = np.flatnonzero(follows)
    torn = follows[last[follows] != target[follows - 1]]
    if len(torn):
        raise UserError(
            f"{where} is not in the authors' layout: the rows of user {users[int(user[torn[0]])]!r} do not continue "
            "one another; prepare the domain again"
        )
    items = np.insert(target, heads, first)  # the first item goes before the first target
    offsets = _offsets(user)
    return items, offsets + np.arange(len(offsets))


def _read_features(folder: Path, name: str, n_items: int) -> dict[str, dict[str, Any]]:
    """Descriptions of the feature files, by suffix; files of the authors have none but their size."""
    features: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{name}.*")):
        suffix, beside = path.name.removeprefix(f"{name}."), path.with_name(path.name + ".json")
        if beside.is_file():
            try:
                meta = json.loads(beside.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{beside} is not valid JSON ({error}); make the features again") from error
            width, dtype = meta.get("width", 0), np.dtype(DTYPES.get(str(meta.get("dtype")), np.float32))
        elif suffix.startswith("feat") and "." not in suffix:
            dtype = np.dtype(np.float32)
            width = path.stat().st_size // dtype.itemsize // n_items
            meta = {"width": width, "rows": n_items, "dtype": "float32"}
        else:
            continue
        if not width or path.stat().st_size != n_items * width * dtype.itemsize:
            raise UserError(
                f"{path} holds {path.stat().st_size} bytes, which is not {n_items} rows of one width; make it with "
                f"`python -m dataset_tools.features {folder} --overwrite`"
            )
        features[suffix] = meta
    return features


def read_domain(folder: Path) -> Domain:
    """Read the sequences of a dataset, in RecBole's standard layout or the authors' split layout.

    Parameters
    ----------
    folder
        The dataset's folder; its name is the prefix of its files.

    Raises
    ------
    UserError
        If a file is missing or broken, or an item is not in the index.
    """
    name = folder.name
    if not folder.is_dir():
        raise UserError(f"there is no domain {name} in {folder.parent}; prepare it first, or give its place by --data")
    standard, train = folder / f"{name}.inter", folder / f"{name}.train.inter"
    if not standard.is_file() and not train.is_file():
        raise UserError(f"{folder} has neither {standard.name} nor {train.name}; prepare the domain first")
    ids = read_ids(folder, name)
    items, offsets = _read_standard(standard, ids) if standard.is_file() else _read_splits(folder, name, ids)
    return Domain(name, folder, len(ids), items, offsets, _read_features(folder, name, len(ids)))
