"""Read interactions that come split beforehand, one file a part: RecBole's ``benchmark_filename``.

A row is a plain interaction, or a pair with its prefix written out. Rows of the second kind whose prefixes continue one
another share one stretch of items, so that memory stays linear in the interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recbole_unisrec.data.atomic import AtomicFields, Interactions, codes, read_columns, read_header, read_times
from recbole_unisrec.errors import UserError


@dataclass(frozen=True)
class Given:
    """What the files hold.

    Attributes
    ----------
    entries
        Items one after the other; ``time`` is the order where the files have none.
    begin
        int64 [n] where the sequence of each entry begins, for prefixes that were written out; None for plain rows,
        which are to be sorted by user and time.
    part
        int64 [n] number of the file that each plain row stands in; None for written prefixes.
    positions
        For written prefixes: int64 positions of the items to find, by file, in the order of its rows.
    """

    entries: Interactions
    begin: np.ndarray | None
    part: np.ndarray | None
    positions: list[np.ndarray]


def read_given(folder: Path, name: str, files: Sequence[str], fields: AtomicFields, window: int) -> Given:
    """Read the three files.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files.
    files
        The middle of their names (``NAME.<middle>.inter``): of training, validation and test.
    fields
        Names of columns, and separators.
    window
        Longest history that the model reads.

    Raises
    ------
    UserError
        If a file is missing, malformed, or of another kind than the first.
    """
    if len(files) != 3:
        raise UserError(f"benchmark_filename names three files, like [train, valid, test], not {', '.join(files)}")
    paths = [folder / f"{name}.{middle}.inter" for middle in files]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"benchmark_filename asks for {', '.join(missing)}, which {folder} does not hold; copy the files there, or "
            f"drop the setting to split {name}.inter"
        )
    written = [fields.item_list in read_header(path, fields) for path in paths]
    if any(written) and not all(written):
        odd = paths[written.index(False)].name
        raise UserError(f"{odd} has no column {fields.item_list}, which the other files of benchmark_filename have")
    return _read_rows(paths, fields, window) if all(written) else _read_plain(paths, fields)


def _read_plain(paths: list[Path], fields: AtomicFields) -> Given:
    """Plain interactions, with the number of the file."""
    tables = []
    for part, path in enumerate(paths):
        table = read_columns(path, (fields.user, fields.item, fields.time), fields)
        times = pl.Series("seconds", read_times(path, table[fields.time]))
        tables.append(table.with_columns(times, pl.lit(part, pl.Int64).alias("part")))
    rows = pl.concat(tables)
    user, user_tokens = codes(rows[fields.user])
    item, item_tokens = codes(rows[fields.item])
    entries = Interactions(user, item, rows["seconds"].to_numpy().copy(), user_tokens, item_tokens)
    return Given(entries, None, rows["part"].to_numpy().copy(), [])


def _read_rows(paths: list[Path], fields: AtomicFields, window: int) -> Given:
    """Pairs with their prefixes; consecutive rows of a file that continue one another are folded together."""
    tables = [
        read_columns(path, (fields.user, fields.item_list, fields.item), fields)
        .with_columns(pl.col(fields.item_list).str.split(fields.seq_separator).alias("prefix"))
        .drop(fields.item_list)
        for path in paths
    ]
    sizes = [len(table) for table in tables]
    rows = pl.concat(tables)
    n = len(rows)
    flat = rows.select(pl.col("prefix").explode()).to_series()
    # numbered as RecBole does: all items to find first, then those of the prefixes
    code, item_tokens = codes(pl.concat([rows[fields.item].alias("item"), flat.alias("item")]))
    user, user_tokens = codes(rows[fields.user])
    target, history = code[:n], code[n:]
    length = rows["prefix"].list.len().to_numpy().astype(np.int64)
    stop = length.cumsum()
    file = np.repeat(np.arange(len(sizes)), sizes)
    same_file = np.r_[False, file[1:] == file[:-1]]
    forward = _continues(target, history, stop, length, window, 1) & same_file
    backward = _continues(target, history, stop, length, window, -1) & same_file
    # a run of rows that continue one another, all in one direction; of a file that goes back in time the last is first
    direction = np.where(forward, 1, np.where(backward, -1, 0))
    starts = direction == 0
    for i in np.flatnonzero(direction):  # where it turns round, a run ends
        starts[i] = not starts[i - 1] and direction[i] != direction[i - 1]
    run = np.cumsum(starts) - 1
    run_direction = np.ones(run[-1] + 1, dtype=np.int64)
    run_direction[run[~starts]] = direction[~starts]
    order = np.lexsort((np.arange(n) * run_direction[run], run))  # each run from the shortest prefix on
    head = np.r_[True, run[order][1:] != run[order][:-1]]
    # each run is the prefix of its first row, then the items to find
    added = np.where(head, length[order], 0) + 1
    where = added.cumsum() - 1  # of each row's item to find
    total = int(added.sum())
    items = np.empty(total, dtype=np.int64)
    items[where] = target[order]
    owner = np.repeat(user[order], added)
    begin = np.repeat((where - length[order])[head], np.bincount(run))
    of_entry = np.repeat(begin, added)
    first = order[head]
    within = np.arange(int(length[first].sum())) - np.repeat(length[first].cumsum() - length[first], length[first])
    items[np.repeat((where - length[order])[head], length[first]) + within] = history[
        np.repeat(stop[first] - length[first], length[first]) + within
    ]
    position = np.empty(n, dtype=np.int64)
    position[order] = where
    entries = Interactions(owner, items, np.arange(total, dtype=np.float64), user_tokens, item_tokens)
    cuts = np.cumsum(sizes)[:-1]
    return Given(entries, of_entry, None, np.split(position, cuts))


def _continues(
    target: np.ndarray, history: np.ndarray, stop: np.ndarray, length: np.ndarray, window: int, step: int
) -> np.ndarray:
    """bool [n]: whether row i's prefix is that of row i − 1 and its item to find (`step` 1), or the other way (−1).

    Prefixes that were cut, to at least `window` items, need only agree in their last `window`.
    """
    n = len(target)
    found = np.zeros(n, dtype=bool)
    later, earlier = (np.arange(1, n), np.arange(n - 1)) if step == 1 else (np.arange(n - 1), np.arange(1, n))
    grown = length[later] == length[earlier] + 1
    cut = (length[later] >= window) & (length[earlier] >= window)
    maybe = np.flatnonzero((grown | cut) & (history[stop[later] - 1] == target[earlier]))
    for i in maybe:
        a, b = int(later[i]), int(earlier[i])
        same = int(length[b]) if grown[i] else window - 1
        found[i + 1] = np.array_equal(history[stop[a] - 1 - same : stop[a] - 1], history[stop[b] - same : stop[b]])
    return found


__all__ = ["Given", "read_given"]
