"""The UniSRec pipeline: duplicates out, items without metadata out, k-core to its fixed point, sequences in order.

Rows are columns of integer codes (see `IdTable`), never Python objects, so that memory grows by some twenty bytes a
rating. The pipeline is deterministic:

- Of rows with equal user, item, rating and time the first one in the dump counts.
- Each user is sorted by time. **Ties keep the order of the dump**, or are shuffled with a seed.
- Users are numbered in the order of their first surviving row in the dump, items in the order in which they first
  occur when the sequences are read one user after the other.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.common import UserError

MAX_FIELD = 2000  # characters; longer fields of the metadata are scraped pages, the paper drops them
CHUNK = 1 << 20


class IdTable:
    """Ids as codes 0, 1, 2, ...; the strings are held once, by polars.

    >>> table = IdTable()
    >>> table.encode(pl.Series(["b", "a", "b"])).tolist()
    [0, 1, 0]
    >>> table.decode(np.array([1, 0])).to_list()
    ['a', 'b']
    """

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        # the strings live as long as a series of the type does
        self._anchor = pl.Series([], dtype=self._type)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def encode(self, ids: pl.Series) -> np.ndarray:
        """Codes [n] uint32 of the ids [n], which hold no null; unseen ids get new codes."""
        codes = ids.cast(self._type).to_physical().cast(pl.UInt32).to_numpy()
        if len(codes):
            self._size = max(self._size, int(codes.max()) + 1)
        return codes

    def decode(self, codes: np.ndarray) -> pl.Series:
        """Ids [n] of the codes [n]."""
        series = pl.Series(codes.astype(np.uint32))
        if hasattr(series.cat, "to"):  # polars 2 took the cast away
            return series.cat.to(self._type).cast(pl.String)
        return series.cast(self._type).cast(pl.String)


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

    def append(self, users: pl.Series, items: pl.Series, times: np.ndarray, ratings: np.ndarray) -> np.ndarray:
        """Add a block of n rows; return the codes [n] of its items."""
        codes = self.item_ids.encode(items)
        block = (self.user_ids.encode(users), codes, times, ratings)
        for parts, column in zip(self._parts.values(), block, strict=True):
            # a copy: a view would keep the larger buffers of the parsed block alive
            parts.append(np.array(column))
        return codes

    def interactions(self, path: Path) -> Interactions:
        """Hand out all rows, once, without those that repeat another.

        Raises
        ------
        UserError
            If there is none; it names ``path``, where they were read from.
        """
        columns: dict[str, Any] = {name: self._take(name) for name in self._types}
        data = Interactions(**columns, user_ids=self.user_ids, item_ids=self.item_ids)
        del columns
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
        users = int(np.count_nonzero(_count(self.users, len(self.user_ids))))
        items = int(np.count_nonzero(_count(self.items, len(self.item_ids))))
        self.steps.append({"step": step, "interactions": len(self), "users": users, "items": items, **more})


@dataclass
class Dataset:
    """What the writer writes: sequences of item indices, and the raw ids and texts behind the indices.

    Attributes
    ----------
    user_ids, item_ids : polars.Series
        Raw ids in index order.
    offsets : array of shape (n_users + 1,), int64
        User ``u`` owns the rows ``offsets[u]:offsets[u + 1]``.
    items : array of shape (n,), uint32
        Item indices, grouped by user, in time order.
    times : array of shape (n,)
    texts : list of str
        In item index order.
    steps : list of dict
    """

    user_ids: pl.Series
    item_ids: pl.Series
    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    texts: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)


def _count(codes: np.ndarray, size: int) -> np.ndarray:
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


def k_core(
    users: np.ndarray,
    items: np.ndarray,
    user_k: int = 5,
    item_k: int = 5,
    on_pass: Callable[[int, int, int], None] | None = None,
) -> np.ndarray:
    """Rows of the k-core: drop users and items that are too rare, again and again, until none is.

    Parameters
    ----------
    users, items : arrays of shape (n,)
        Codes.
    user_k, item_k
        As many rows a user or an item needs; 0 for any.
    on_pass
        Called after each pass with the interactions, users and items that are left.

    Returns
    -------
    array of shape (m,), int64
        Surviving rows, ascending. The result does not depend on the order of the passes.

    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), 2, 2).tolist()
    [0, 1, 2, 3]
    """
    rows: np.ndarray | None = None
    user_counts = _count(users, int(users.max()) + 1 if len(users) else 0)
    item_counts = _count(items, int(items.max()) + 1 if len(items) else 0)
    while len(users):
        keep = (user_counts >= user_k)[users]
        keep &= (item_counts >= item_k)[items]
        if keep.all():
            break
        gone = ~keep
        user_counts -= _count(users[gone], len(user_counts))
        item_counts -= _count(items[gone], len(item_counts))
        rows = np.flatnonzero(keep) if rows is None else rows[keep]
        users, items = users[keep], items[keep]
        if on_pass:
            on_pass(len(users), int(np.count_nonzero(user_counts)), int(np.count_nonzero(item_counts)))
    return np.arange(len(users)) if rows is None else rows


def largest_k(users: np.ndarray, items: np.ndarray) -> int:
    """Return the largest k whose k-core (on users and items alike) leaves something; 0 for no rows."""
    low, high = 0, len(users)
    if high:
        high = int(min(_count(users, int(users.max()) + 1).max(), _count(items, int(items.max()) + 1).max()))
    while low < high:
        middle = (low + high + 1) // 2
        if len(k_core(users, items, middle, middle)):
            low = middle
        else:
            high = middle - 1
    return low


def drop_duplicates(data: Interactions) -> int:
    """Let rows with equal user, item, rating and time count once (the first one stays); return how many went."""
    mask = duplicates(data.users, data.items, data.times, data.ratings)
    data.ratings = None
    data.repeated = int(np.count_nonzero(mask))
    if data.repeated:
        data.keep(~mask)
    data.count("duplicates removed")
    return data.repeated


def keep_items(data: Interactions, known: np.ndarray, what: str = "metadata") -> None:
    """Drop the rows whose item is not in the mask ``known`` [n_items].

    Raises
    ------
    UserError
        If nothing is left.
    """
    mask = known[data.items]
    if not mask.any():
        raise UserError(
            f"no interaction is left: none of the {len(data):,} interactions is with an item that has {what}; "
            "do both files belong to the same dump?"
        )
    data.keep(mask)
    data.count(f"items without {what} removed")


def keep_k_core(data: Interactions, user_k: int, item_k: int) -> None:
    """Reduce the data to its k-core, with the counts of each pass.

    Raises
    ------
    UserError
        If nothing is left. It says at which pass, and the largest k that leaves something.
    """
    passes: list[dict[str, Any]] = []

    def on_pass(interactions: int, users: int, items: int) -> None:
        step = f"k-core pass {len(passes) + 1}"
        passes.append({"step": step, "interactions": interactions, "users": users, "items": items})

    rows = k_core(data.users, data.items, user_k, item_k, on_pass)
    if not len(rows):
        best = largest_k(data.users, data.items)
        advice = (
            f"the largest k that leaves something is {best} (--user_k {best} --item_k {best})"
            if best
            else "there was no interaction to begin with"
        )
        where = f"empty after pass {len(passes)} of the k-core" if passes else "empty before the k-core"
        raise UserError(
            f"the dataset is {where} ({len(data):,} interactions went in, user_k {user_k}, item_k {item_k}); {advice}"
        )
    data.keep(rows)
    data.steps += passes
    data.count("k-core", passes=len(passes))


def first_seen(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank codes by first occurrence.

    Returns
    -------
    order : array of shape (n_distinct,)
        The distinct codes, in the order of their first occurrence.
    rank : array of shape (size,), uint32
        Place of each code in ``order``.

    >>> order, rank = first_seen(np.array([3, 1, 3]), 4)
    >>> order.tolist(), rank[[3, 1]].tolist()
    ([3, 1], [0, 1])
    """
    first = np.full(size, len(codes), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of repeated places the last assignment stays
    present = np.flatnonzero(first < len(codes))
    order = present[np.argsort(first[present])]
    rank = np.zeros(size, dtype=np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return order, rank


def make_sequences(data: Interactions, shuffle_ties: int | None = None) -> Dataset:
    """Group by user and sort each user by time. Texts are left to the caller.

    Ties keep the order of the dump, or with ``shuffle_ties``, a seed, come in random order.
    """
    users, rank = first_seen(data.users, len(data.user_ids))
    user = rank[data.users]
    last = [] if shuffle_ties is None else [np.random.default_rng(shuffle_ties).permutation(len(user))]
    order = np.lexsort((*last, data.times, user))  # stable
    codes = data.items[order]
    items, item_rank = first_seen(codes, len(data.item_ids))
    offsets = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(np.bincount(user, minlength=len(users)), out=offsets[1:])
    return Dataset(
        user_ids=data.user_ids.decode(users),
        item_ids=data.item_ids.decode(items),
        offsets=offsets,
        items=item_rank[codes],
        times=data.times[order],
        steps=data.steps,
    )


def k_core_dataset(
    data: Interactions, texts: Mapping[int, str], user_k: int, item_k: int, shuffle_ties: int | None = None
) -> Dataset:
    """The last steps of every tool: k-core, sequences, and the texts, which are given by item code.

    Raises
    ------
    UserError
        If the k-core leaves nothing, see `keep_k_core`, or no item has a text.
    """
    keep_k_core(data, user_k, item_k)
    dataset = make_sequences(data, shuffle_ties)
    dataset.texts = [texts[code] for code in data.item_ids.encode(dataset.item_ids).tolist()]
    if all(map(is_empty_text, dataset.texts)):
        raise UserError(
            f"none of the {len(dataset.texts):,} items has a text; is it the right item file, with these text fields?"
        )
    return dataset


_QUOTES_AND_LINE_ENDS = str.maketrans("", "", '"\n\r')
# what would break a line-oriented, tab-separated file, or a reader that splits at every Unicode line end
_BREAKS = re.compile("[\t\x00\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def clean_text(value: Any) -> str:
    """One field of an item, cleaned as in the paper.

    HTML entities unescaped; quotes and line ends removed; trailing dots to exactly one; a field of 2,000 characters or
    more dropped. Tabs and other characters that end a line somewhere become blanks. A list is joined with blanks.

    >>> clean_text(["Arts &amp; Crafts", "3\\" Paper..."])
    'Arts & Crafts 3 Paper.'
    """
    if isinstance(value, list):
        value = " ".join(map(str, value))
    elif not isinstance(value, str):
        value = str(value)
    if "&" in value:
        value = html.unescape(value)
    value = value.translate(_QUOTES_AND_LINE_ENDS)
    value = _BREAKS.sub(" ", value).rstrip(".") + "."
    return value if len(value) < MAX_FIELD else ""


def join_fields(values: Iterable[Any]) -> str:
    """Text of an item: each field that is there, cleaned, with a blank behind it, as the published sets have it."""
    return "".join(clean_text(value) + " " for value in values if value is not None)


def is_empty_text(text: str) -> bool:
    """Whether a text says nothing: no letter or digit in it."""
    return not any(character.isalnum() for character in text)


# what pandas, and so RecBole, reads as "there is nothing" (`pandas.read_csv`, na_values)
MISSING_WORDS = (
    "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None", "nan", "-nan", "NaN", "-NaN",
    "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip


def is_missing_word(ids: pl.Series) -> pl.Series:
    """Mask [n] of the ids that vanish when RecBole reads them, such as NA and None."""
    return ids.is_in(MISSING_WORDS)


def check_ids(ids: pl.Series, what: str) -> None:
    """Refuse ids that an atomic file cannot hold, or that the wrong encoding made.

    Raises
    ------
    UserError
        Naming the first such id.
    """
    wrong = ids.filter(ids.str.contains('[\t\n\r\x00\x0b\x0c\x1c-\x1e\u0085\u2028\u2029\ufffd]|^\\s*$|^"'))
    if len(wrong):
        raise UserError(
            f"{what} {wrong[0]!r} is empty, begins with a quote, or holds a tab, a line end or a damaged character, "
            f"which an atomic file cannot hold in an id ({len(wrong):,} such); replace it in the source"
        )
    missing = ids.filter(is_missing_word(ids))
    if len(missing):
        raise UserError(f"{what} {missing[0]!r} is a word that RecBole reads as nothing; rename it in the source")


def whole_times(times: np.ndarray) -> np.ndarray:
    """Times as integers if all are whole numbers, so that they are written without a fraction."""
    if times.dtype.kind == "i":
        return times
    if len(times) and np.all(np.abs(times) < 2**53) and np.all(times == np.floor(times)):
        return times.astype(np.int64)
    return times
