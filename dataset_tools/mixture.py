"""Several domains as one pre-training set, without copying them.

| file | content |
|---|---|
| ``NAME.mixture.json`` | the domains: folder (relative to this one), counts, and what made their feature files |
| ``NAME.pt_datasets`` | the names of the domains, separated by commas |
| ``NAME.items.npy`` | int32 [n_interactions]: global item indices, user after user, in time order, whole sequences |
| ``NAME.offsets.npy`` | int64 [n_users + 1]: the items of user u are ``items[offsets[u]:offsets[u + 1]]`` |
| ``NAME.user_domain.npy`` | int16 [n_users]: the domain of each user, by position in the list |

The global index of an item is the number of items in the domains before, plus its index within its own. Interactions
of the same second keep the order of the file. The feature files stay where they are.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools import __version__
from dataset_tools.arguments import new_parser
from dataset_tools.common import UserError, run_cli, whole_folder
from dataset_tools.features import DTYPES, read_ids

SPLITS = ("train", "valid", "test")
SAME = ("width", "encoder", "pooling", "max_length", "prompt")  # what makes features comparable


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


def _check_same(domains: list[Domain]) -> None:
    """Every feature file of one suffix must come from the same encoder."""
    for suffix in sorted({suffix for domain in domains for suffix in domain.features}):
        having = [domain for domain in domains if suffix in domain.features]
        for other in having[1:]:
            a, b = having[0].features[suffix], other.features[suffix]
            for key in SAME:
                if key in a and key in b and a[key] != b[key]:
                    raise UserError(
                        f"the {suffix} files differ: {key} is {a[key]!r} in {having[0].name} and {b[key]!r} in "
                        f"{other.name}; encode one of them again with the settings of the other"
                    )


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


def build_mixture(names: list[str], data: Path, name: str | None = None, overwrite: bool = False) -> Path:
    """Write ``data/NAME``, a set of several domains; time, memory and disk grow with the interactions.

    Parameters
    ----------
    names
        The domains, folders of `data`.
    data
        The folder of datasets.
    name
        Of the mixture; None takes the first letters of the domains.
    overwrite
        Replace an existing mixture.

    Returns
    -------
    Path
        The new folder; see the module for its files.

    Raises
    ------
    UserError
        If a domain is missing or broken, an item has no index, feature files come from different encoders, or the
        folder exists. A failed run leaves an existing folder as it was.
    """
    data = Path(data)
    if not names:
        raise UserError("no domains were named; give at least one folder of --data")
    twice = [domain for domain in names if names.count(domain) > 1]
    if twice:
        raise UserError(f"the domain {twice[0]} is named twice; name each once")
    if len(names) > np.iinfo(np.int16).max:
        raise UserError(f"{len(names)} domains are more than the {np.iinfo(np.int16).max} that a mixture can hold")
    bad = [part for part in [*names, *([name] if name else [])] if part != Path(part).name or part in ("", "..")]
    if bad:
        raise UserError(f"{bad[0]!r} is no plain folder name; give names of folders in --data")
    name = name or "".join(domain[0] for domain in names)
    folder = data / name
    if name in names:
        raise UserError(f"the mixture cannot have the name of its domain {name}; choose another --name")

    def check() -> None:
        if folder.exists() and not overwrite:
            raise UserError(f"{folder} exists; add --overwrite to replace it, or choose another --name")
        if folder.exists() and not (folder / f"{name}.mixture.json").is_file():
            raise UserError(f"{folder} holds no mixture, so it is not replaced; choose another --name")

    check()
    domains = [read_domain(data / domain) for domain in names]
    _check_same(domains)
    n_items = sum(domain.n_items for domain in domains)
    if n_items > np.iinfo(np.int32).max:
        raise UserError(f"{n_items} items are more than int32 can number; mix fewer domains")
    n_users = [len(domain.offsets) - 1 for domain in domains]
    n_rows = [len(domain.items) for domain in domains]
    starts = np.cumsum([0, *(domain.n_items for domain in domains)])
    description = {
        "name": name,
        "n_items": n_items,
        "n_users": sum(n_users),
        "n_interactions": sum(n_rows),
        "domains": [
            {
                "name": domain.name,
                "folder": os.path.relpath(domain.folder, folder),
                "first_item": int(start),
                "n_items": domain.n_items,
                "n_users": users,
                "n_interactions": rows,
                "features": domain.features,
            }
            for domain, start, users, rows in zip(domains, starts, n_users, n_rows, strict=False)
        ],
        "order": "by domain, then user, then time, then the order of the file",
        "tool_version": __version__,
    }
    with whole_folder(folder, check) as fresh:
        items = np.lib.format.open_memmap(fresh / f"{name}.items.npy", "w+", np.int32, (sum(n_rows),))
        offsets = np.zeros(sum(n_users) + 1, dtype=np.int64)
        row = user = 0
        for domain, start in zip(domains, starts, strict=False):
            np.add(domain.items, start, out=items[row : row + len(domain.items)], casting="unsafe")
            offsets[user : user + len(domain.offsets)] = domain.offsets + row
            row, user = row + len(domain.items), user + len(domain.offsets) - 1
        items.flush()
        del items
        np.save(fresh / f"{name}.offsets.npy", offsets, allow_pickle=False)
        user_domain = np.repeat(np.arange(len(domains), dtype=np.int16), n_users)
        np.save(fresh / f"{name}.user_domain.npy", user_domain, allow_pickle=False)
        (fresh / f"{name}.pt_datasets").write_text(",".join(names) + "\n", encoding="utf-8", newline="\n")
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (fresh / f"{name}.mixture.json").write_text(text, encoding="utf-8", newline="\n")
    return folder


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = new_parser(
        "mixture",
        "DOMAIN...",
        description="Make one pre-training set of several prepared domains. Only the sequences are written, once, as "
        "indices; text features stay in the domains' folders. Domains may be in RecBole's layout (NAME.inter) or in "
        "the authors' (NAME.train.inter, ...).",
        epilog="example:\n  python -m dataset_tools.mixture Food Home CDs Kindle Movies --name FHCKM --data dataset/",
    )
    parser.add_argument("domains", nargs="+", metavar="DOMAIN", help="a dataset's folder in DATA")
    parser.add_argument("--name", help="of the mixture (default: the first letters of the domains)")
    parser.add_argument("--data", type=Path, default=Path("dataset"), help="folder of datasets (default: dataset/)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing mixture")
    args = parser.parse_args(arguments)
    folder = build_mixture(args.domains, args.data, args.name, args.overwrite)
    found = json.loads((folder / f"{folder.name}.mixture.json").read_text(encoding="utf-8"))
    for domain in found["domains"]:
        print(
            f"{domain['name']}: {domain['n_users']} users, {domain['n_items']} items, {domain['n_interactions']} "
            f"interactions, features: {', '.join(domain['features']) or 'none yet'}"
        )
    print(f"{folder}: {found['n_users']} users, {found['n_items']} items, {found['n_interactions']} interactions")


if __name__ == "__main__":
    sys.exit(run_cli(main))
