"""Interactions as columns of integer codes, gathered block by block, with the counts after each step.

No Python objects are held, so that memory grows by some twenty bytes a rating.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.common import UserError
from dataset_tools.ids import IdTable

CHUNK = 1 << 20


class Collector:
    """Gather interactions block by block: ids become codes at once, and no column is held twice for more than a moment.

    Parameters
    ----------
    time_type, rating_type
        numpy types of the two columns.
    """

    def __init__(self, time_type: Any = np.float64, rating_type: Any = np.float64) -> None:
        self.user_ids, self.item_ids = IdTable(), IdTable()
        self._types = {"users": np.uint32, "items": np.uint32, "times": time_type, "ratings": rating_type}
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in self._types}

    def __len__(self) -> int:
        return sum(map(len, self._parts["users"]))

    def append(self, users: pl.Series, items: pl.Series, times: np.ndarray, ratings: np.ndarray) -> np.ndarray:
        """Add a block of n rows; return the codes [n] of its items."""
        codes = self.item_ids.encode(items)
        block = (self.user_ids.encode(users), codes, times, ratings)
        for parts, column in zip(self._parts.values(), block, strict=True):
            # a copy: a view would keep the larger buffers of the parsed block alive
            parts.append(np.array(column))
        return codes

    def column(self, name: str) -> np.ndarray:
        """One of ``users``, ``items``, ``times`` and ``ratings`` [n], copied."""
        parts = self._parts[name]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self._types[name])

    def interactions(self, path: Path, rows: np.ndarray | None = None) -> Interactions:
        """Hand out all rows, once, without those that repeat another.

        Parameters
        ----------
        path
            Where they were read from.
        rows
            A mask or an order of the rows; None for all as they came.

        Raises
        ------
        UserError
            If there is none; it names ``path``, where they were read from.
        """
        columns: dict[str, Any] = {name: self._take(name) for name in self._types}
        data = Interactions(**columns, user_ids=self.user_ids, item_ids=self.item_ids)
        del columns
        if rows is not None:
            data.keep(rows)
        if not len(data):
            raise UserError(f"{path} holds no interaction that can be read; is it the right file?")
        data.times = whole_times(data.times)
        data.count("read")
        drop_duplicates(data)
        return data

    def _take(self, name: str) -> np.ndarray:
        """One column in one piece; its blocks go while they are copied."""
        parts = self._parts.pop(name)
        whole = np.empty(sum(map(len, parts)), dtype=self._types[name])
        start = 0
        parts.reverse()
        while parts:
            part = parts.pop()
            whole[start : start + len(part)] = part
            start += len(part)
        return whole


@dataclass
class Interactions:
    """Rows in the order of the dump.

    Attributes
    ----------
    users, items : arrays of shape (n,), uint32
        Codes of ``user_ids`` and ``item_ids``.
    times : array of shape (n,)
        As in the dump.
    ratings : array of shape (n,) or None
        Only used to tell duplicates; None once they are out.
    steps : list of dict
        Counts after each step, for the provenance file.
    repeated : int
        Rows that went because they repeated another.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray | None
    user_ids: IdTable
    item_ids: IdTable
    steps: list[dict[str, Any]] = field(default_factory=list)
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.users)

    def keep(self, rows: np.ndarray) -> None:
        """Keep the rows of a mask or an index array, in place."""
        self.users = self.users[rows]
        self.items = self.items[rows]
        self.times = self.times[rows]
        if self.ratings is not None:
            self.ratings = self.ratings[rows]

    def count(self, step: str, **more: Any) -> None:
        """Record the counts after a step."""
        users = int(np.count_nonzero(count_codes(self.users, len(self.user_ids))))
        items = int(np.count_nonzero(count_codes(self.items, len(self.item_ids))))
        self.steps.append({"step": step, "interactions": len(self), "users": users, "items": items, **more})


def count_codes(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each code occurs, [size] int64; in pieces, as bincount copies its input to 64 bits."""
    counts = np.zeros(size, dtype=np.int64)
    step = max(CHUNK, size)
    for start in range(0, len(codes), step):
        counts += np.bincount(codes[start : start + step], minlength=size)
    return counts


def duplicates(users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray | None) -> np.ndarray:
    """Mask [n] of the rows that repeat an earlier row in all four columns.

    A 64-bit hash of each row is sorted; only rows whose hash is there twice (and a few that share a slot of a small
    table with one) are compared in full, so that the result is exact.
    """
    n = len(users)
    hashes = np.empty(n, dtype=np.uint64)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        value = users[part].astype(np.uint64) << np.uint64(32) | items[part].astype(np.uint64)
        value *= np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
        value += _bits(times[part])
        value *= np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(32)
        if ratings is not None:
            value += _bits(ratings[part])
            value *= np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
        hashes[part] = value
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    mask = np.zeros(n, dtype=bool)
    if not len(twice):
        return mask
    slots = np.zeros(1 << 22, dtype=bool)
    slots[(twice & np.uint64((1 << 22) - 1)).astype(np.int64)] = True
    suspects = np.concatenate(
        [
            start + np.flatnonzero(slots[(hashes[start : start + CHUNK] & np.uint64((1 << 22) - 1)).astype(np.int64)])
            for start in range(0, n, CHUNK)
        ]
    )
    del hashes
    columns = [suspects, times[suspects], items[suspects], users[suspects]]
    if ratings is not None:
        columns.insert(1, ratings[suspects])
    order = np.lexsort(columns)
    same = np.ones(len(order) - 1, dtype=bool)
    for column in columns[1:]:
        column = column[order]
        same &= column[1:] == column[:-1]
    mask[suspects[order[1:][same]]] = True
    return mask


def _bits(values: np.ndarray) -> np.ndarray:
    """Equal values to equal 64-bit patterns; adding 0.0 makes -0.0 the same as 0.0."""
    if values.dtype.kind == "f":
        return (values.astype(np.float64) + 0.0).view(np.uint64)
    return values.astype(np.int64).view(np.uint64)


def drop_duplicates(data: Interactions) -> int:
    """Let rows with equal user, item, rating and time count once (the first one stays); return how many went."""
    mask = duplicates(data.users, data.items, data.times, data.ratings)
    data.ratings = None
    data.repeated = int(np.count_nonzero(mask))
    if data.repeated:
        data.keep(~mask)
    data.count("duplicates removed")
    return data.repeated


def whole_times(times: np.ndarray) -> np.ndarray:
    """Times as integers if all are whole numbers, so that they are written without a fraction."""
    if times.dtype.kind == "i":
        return times
    if len(times) and np.all(np.abs(times) < 2**53) and np.all(times == np.floor(times)):
        return times.astype(np.int64)
    return times
