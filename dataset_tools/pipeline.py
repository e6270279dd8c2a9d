"""The UniSRec pipeline: duplicates out, items without metadata out, k-core to its fixed point, sequences in order.

It is deterministic:

- Of rows with equal user, item, rating and time the first one in the dump counts.
- Each user is sorted by time. **Ties keep the order of the dump**, or are shuffled with a seed.
- Users are numbered in the order of their first surviving row in the dump, items in the order in which they first
  occur when the sequences are read one user after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.cleaning import is_empty_text
from dataset_tools.common import UserError
from dataset_tools.interactions import Interactions
from dataset_tools.kcore import k_core, largest_k


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
