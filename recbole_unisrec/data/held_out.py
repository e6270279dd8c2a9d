"""What is held out of any split: items that training must not know, users that it does not learn from or is not measured on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.sequences import Pairs
from recbole_unisrec.data.splits import Split


def hold_out_items(split: Split, cold: Tensor, window: int) -> Split:
    """The same split without any trace of some items in training and validation, as if they were new in the shop.

    They are taken out of what training reads, and out of validation where they are the item to find. Test is left as it
    is: histories and items to find may be cold.

    Parameters
    ----------
    split
        Any split.
    cold
        bool [n_items], True for items to hold out.
    window
        Longest history L.
    """
    start, stop = split.stretches()
    length = stop - start
    owner = torch.repeat_interleave(torch.arange(len(length)), length)
    row = start[owner] + torch.arange(len(owner)) - torch.repeat_interleave(length.cumsum(0) - length, length)
    warm = ~cold[split.items[row]]
    row, owner = row[warm], owner[warm]
    left = torch.bincount(owner, minlength=len(length))
    n = len(split.items)
    begin = n + (left.cumsum(0) - left)[owner]  # the shortened sequences stand behind the others
    moved = torch.full((n,), -1)
    moved[row] = n + torch.arange(len(row))
    items, begin = torch.cat([split.items, split.items[row]]), torch.cat([split.begin, begin])
    target = moved[split.train.target]
    kept = (target >= 0) & (target > begin[target])
    target = target[kept]
    valid = split.valid.where(~cold[split.items[split.valid.target]])
    return Split(
        Pairs(items, split.train.user[kept], torch.maximum(begin[target], target - window), target),
        replace(valid, items=items),
        replace(split.test, items=items),
        begin,
    )


def keep_users(split: Split, kept: Tensor) -> Split:
    """The same split with the training pairs of some users only; validation and test stay as they are.

    Parameters
    ----------
    split
        Any split.
    kept
        bool [n_users], True for users to learn from.
    """
    return replace(split, train=split.train.where(kept[split.train.user]))


def draw_items(items: np.ndarray, share: float, n_items: int, times: np.ndarray | None = None) -> Tensor:
    """A share of the items, to be held out (``cold_items``): drawn at random (always the same), or the newest.

    Parameters
    ----------
    items
        int64 [n] items of all interactions.
    share
        Above 0 and below 1.
    n_items
        Number of item ids.
    times
        float64 [n] times of the interactions, if the newest are wanted: those that were taken first the latest.

    Returns
    -------
    Tensor
        bool [n_items].
    """
    order = known = np.unique(items)
    if times is not None:
        first = np.full(n_items, np.inf)
        np.minimum.at(first, items, times)
        order = known[np.argsort(first[known], kind="stable")]
    else:
        order = np.random.default_rng(0).permutation(known)
    cold = torch.zeros(n_items, dtype=torch.bool)
    cold[torch.from_numpy(order[len(order) - max(1, round(share * len(order))) :].copy())] = True
    return cold


def drawn(ids: Tensor, most: int, n: int) -> Tensor:
    """bool [n]: at most so many of int64 `ids`, drawn at random, always the same ones; fewer are among those of more."""
    chosen = np.random.default_rng(0).permutation(ids.numpy())[:most]
    kept = torch.zeros(n, dtype=torch.bool)
    kept[torch.from_numpy(chosen)] = True
    return kept


def draw_users(users: Tensor, share: float, n_users: int) -> Tensor:
    """bool [n_users]: a random share of int64 `users` (``train_users``); those of a smaller share are among them."""
    return drawn(users, max(1, round(share * len(users))), n_users)


def some_users(valid: Pairs, test: Pairs, most: int, n_users: int) -> tuple[Pairs, Pairs]:
    """Validation and test pairs of at most so many users, always the same ones, for catalogues that take long to rank."""
    kept = drawn(torch.cat([valid.user, test.user]).unique(), most, n_users)
    return valid.where(kept[valid.user]), test.where(kept[test.user])


def some_pairs(pairs: Pairs, most: int) -> Pairs:
    """At most so many pairs, always the same ones."""
    return pairs.where(drawn(torch.arange(len(pairs)), most, len(pairs)))
