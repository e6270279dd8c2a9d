"""Splits: which (prefix, next item) pairs train, which validate and which test.

A split is nothing but three sets of positions in one array of items; what stands at a position is the item to find, and
what its user took before is the prefix. Each function here gives the same `Split`, so that training, evaluation, cold
items and subsets of users need not know which of them made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.sequences import Pairs, Segments, cut_segments
from recbole_unisrec.errors import UserError

LEAVE_ONE_MODES = ("valid_and_test", "valid_only", "test_only")
Positions = Sequence[np.ndarray]  # int64, of the training, the validation and the test part


@dataclass(frozen=True)
class Sequences:
    """What there is to split: the items of all users, each user's in order of time.

    Attributes
    ----------
    items, user
        int64 [n] item and user ids.
    begin
        int64 [n] where the sequence of each entry begins.
    time
        float64 [n].
    """

    items: np.ndarray
    user: np.ndarray
    begin: np.ndarray
    time: np.ndarray

    @classmethod
    def of(cls, user: np.ndarray, items: np.ndarray, time: np.ndarray) -> Sequences:
        """From interactions in any order; ties in time keep it."""
        order = np.lexsort((time, user))
        user, items, time = user[order].astype(np.int64), items[order].astype(np.int64), time[order]
        first, size = _runs(user)
        return cls(items, user, np.repeat(first, size), time)

    @property
    def targets(self) -> np.ndarray:
        """int64 [P] positions that have a prefix: all but the first of each sequence, ascending."""
        return np.flatnonzero(np.arange(len(self.items)) > self.begin)


@dataclass(frozen=True)
class Split:
    """Three sets of pairs over one array of items.

    Attributes
    ----------
    train, valid, test
        The pairs.
    begin
        int64 [n] where the sequence of each entry begins, further back than the window reaches.
    """

    train: Pairs
    valid: Pairs
    test: Pairs
    begin: Tensor

    @classmethod
    def of(cls, sequences: Sequences, positions: Positions, window: int) -> Split:
        """From the positions of the items to find in each part; prefixes are the last `window` items before them."""
        items, begin = torch.from_numpy(sequences.items), torch.from_numpy(sequences.begin)

        def pairs(target: np.ndarray) -> Pairs:
            start = np.maximum(sequences.begin[target], target - window)
            return Pairs(
                items, torch.from_numpy(sequences.user[target]), torch.from_numpy(start), torch.from_numpy(target)
            )

        train, valid, test = (pairs(np.ascontiguousarray(p, dtype=np.int64)) for p in positions)
        return cls(train, valid, test, begin)

    @property
    def items(self) -> Tensor:
        """int64 [n] item ids."""
        return self.train.items

    @property
    def parts(self) -> tuple[Pairs, Pairs, Pairs]:
        """Training, validation and test."""
        return self.train, self.valid, self.test

    @property
    def train_user(self) -> Tensor:
        """int64 [U] users with training pairs, ascending."""
        return self.train.user.unique()

    def stretches(self) -> tuple[Tensor, Tensor]:
        """int64 [S] bounds of what training reads: each sequence up to its last training pair, ascending."""
        trains = torch.zeros(len(self.items), dtype=torch.bool)
        trains[self.train.target] = True
        target = trains.nonzero().squeeze(1)  # ascending, and so are their beginnings
        start, counts = self.begin[target].unique_consecutive(return_counts=True)
        return start, target[counts.cumsum(0) - 1] + 1

    def segments(self, window: int, exact: bool = False) -> Segments:
        """What training reads, cut to the window (see `data.sequences.cut_segments`); each training pair counts once."""
        start, stop = self.stretches()
        if int((stop - start - 1).sum()) == len(self.train):  # nothing but training pairs in there
            return cut_segments(self.items, start, stop, window, exact)
        counts = torch.zeros(len(self.items), dtype=torch.bool)
        counts[self.train.target] = True
        cut = replace(cut_segments(self.items, start, stop, window, exact), counts=counts)
        kept = cut.n_pairs > 0
        return replace(cut, start=cut.start[kept], stop=cut.stop[kept], first=cut.first[kept])

    def history_length(self, pairs: Pairs) -> Tensor:
        """int64 [P] items in the prefixes of `pairs`, not cut to the window."""
        return pairs.target - self.begin[pairs.target]

    def popularity(self, n_items: int) -> Tensor:
        """int64 [n_items]: how often each item occurs in training, as input or next item.

        What is to be found in validation or test does not count, even where a later training pair has it in its prefix.
        """
        start, stop = self.stretches()
        edges = torch.zeros(len(self.items) + 1, dtype=torch.int64)
        edges[start] += 1
        edges[stop] -= 1
        inside = edges.cumsum(0)[:-1].bool()
        inside[self.valid.target] = False
        inside[self.test.target] = False
        return torch.bincount(self.items[inside], minlength=n_items)


# --- the functions


def leave_one_out(sequences: Sequences, window: int, mode: str = "valid_and_test") -> Split:
    """The last pair of each user to test, the one before to validation (RecBole's ``LS``).

    As in RecBole, it is pairs that are split, and one is always left to training: of two items the pair trains, of
    three the second trains and the third tests.

    Parameters
    ----------
    sequences
        What to split.
    window
        Longest history L.
    mode
        ``valid_and_test``, ``valid_only`` or ``test_only`` (the last pair alone is held out).

    Raises
    ------
    UserError
        If `mode` is another.
    """
    if mode not in LEAVE_ONE_MODES:
        raise UserError(f"eval_args split LS must be one of {', '.join(LEAVE_ONE_MODES)}, not {mode!r}")
    target = _grouped_by_time(sequences)
    place, total = _places(sequences.user[target])
    wanted = 2 if mode == "valid_and_test" else 1
    from_end = np.where(total - place <= np.minimum(wanted, total - 1), total - place, 0)  # 1 is the last; 0 trains
    train, last, other = (target[from_end == k] for k in range(3))
    if mode == "valid_only":
        return Split.of(sequences, (train, last, other), window)
    return Split.of(sequences, (train, other, last), window)


def by_ratio(
    sequences: Sequences, window: int, ratios: Sequence[float], order: str = "TO", group_by: str | None = "user"
) -> Split:
    """Shares of the pairs, of each user or of all together (RecBole's ``RS``).

    Parameters
    ----------
    sequences, window
        As in `leave_one_out`.
    ratios
        Of training, validation and test; need not sum to one.
    order
        ``TO``: by time. ``RO``: at random, as torch's generator stands.
    group_by
        ``user``, or None (or "none").

    Raises
    ------
    UserError
        If an argument is something else.
    """
    ratios = _ratios("RS", ratios)
    if group_by not in (None, "none", "None", "user"):
        raise UserError(f"eval_args group_by must be user or none, not {group_by!r}")
    if group_by == "user":
        target = _grouped_by_time(sequences) if order == "TO" else _grouped(sequences, _ordered(sequences, order))
        place, total = _places(sequences.user[target])
    else:
        target = _ordered(sequences, order)
        place, total = np.arange(len(target)), np.full(len(target), len(target))
    first, second = _cuts(total, ratios)
    return Split.of(
        sequences, (target[place < first], target[(first <= place) & (place < second)], target[second <= place]), window
    )


def by_share_of_time(sequences: Sequences, window: int, ratios: Sequence[float]) -> Split:
    """Test is what lies after a point in time that leaves a share to it, the rest is split by user (RecBole's ``TS``).

    Parameters
    ----------
    sequences, window, ratios
        As in `by_ratio`.
    """
    ratios = _ratios("TS", ratios)
    target = _grouped_by_time(sequences)
    boundary = np.percentile(sequences.time[target], 100 * (1 - ratios[2]))
    before = sequences.time[target] <= boundary
    place, total = _places(sequences.user[target[before]])
    trains = place < (total * (ratios[0] / (1 - ratios[2]))).astype(np.int64)
    return Split.of(sequences, (target[before][trains], target[before][~trains], target[~before]), window)


def by_time(sequences: Sequences, window: int, valid_from: float, test_from: float) -> Split:
    """One point in time for all users: train on what was taken before, test on what came after.

    No pair knows of anything that happened later. A prefix holds all that its user took before, also after these
    points.

    Parameters
    ----------
    sequences, window
        As in `leave_one_out`.
    valid_from, test_from
        In the unit of the times: training ends before `valid_from`, validation before `test_from`.

    Raises
    ------
    UserError
        If the points are in the wrong order.
    """
    if not valid_from <= test_from:
        raise UserError(f"a split by time validates before it tests, but {valid_from:g} is after {test_from:g}")
    target = sequences.targets
    time = sequences.time[target]
    return Split.of(
        sequences,
        (target[time < valid_from], target[(valid_from <= time) & (time < test_from)], target[test_from <= time]),
        window,
    )


def as_given(sequences: Sequences, window: int, positions: Positions) -> Split:
    """The pairs that files name, see `data.benchmark`."""
    return Split.of(sequences, positions, window)


def everything(sequences: Sequences, window: int) -> Split:
    """All pairs train: for a model to serve, once its settings and epochs are chosen."""
    nothing = np.zeros(0, dtype=np.int64)
    return Split.of(sequences, (sequences.targets, nothing, nothing), window)


# --- details


def _ordered(sequences: Sequences, order: str) -> np.ndarray:
    """All positions with a prefix, in RecBole's order: by time, or at random."""
    target = sequences.targets
    if order == "TO":
        return target[np.argsort(sequences.time[target], kind="stable")]
    return target[torch.randperm(len(target)).numpy()]


def _grouped(sequences: Sequences, target: np.ndarray) -> np.ndarray:
    """User by user, in order of first appearance, each user's as they stand."""
    _, first, which = np.unique(sequences.user[target], return_index=True, return_inverse=True)
    return target[np.argsort(first[which], kind="stable")]


def _grouped_by_time(sequences: Sequences) -> np.ndarray:
    """All positions with a prefix, user by user in order of their first, each user's by time.

    They stand so within the users already, so that users alone are sorted.
    """
    first, size = _runs(sequences.begin)
    first, count = first[size > 1] + 1, size[size > 1] - 1
    order = np.argsort(sequences.time[first], kind="stable")
    first, count = first[order], count[order]
    return np.repeat(first - np.r_[0, count.cumsum()[:-1]][: len(first)], count) + np.arange(count.sum())


def _places(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of entries that stand group by group: the place within the group, and its size, int64 [P] each."""
    first, size = _runs(group)
    return np.arange(len(group)) - np.repeat(first, size), np.repeat(size, size)


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal values begins, and how long it is, int64 [R] each."""
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    return first, np.diff(np.r_[first, len(values)])


def _ratios(kind: str, ratios: object) -> list[float]:
    """Three shares that sum to one."""
    if (
        not isinstance(ratios, list | tuple)
        or len(ratios) != 3
        or not all(isinstance(r, int | float) and r >= 0 for r in ratios)
        or not sum(ratios)
    ):
        raise UserError(f"eval_args split {kind} takes three shares like [0.8, 0.1, 0.1], not {ratios!r}")
    return [r / sum(ratios) for r in ratios]


def _cuts(total: np.ndarray, ratios: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Where validation and test begin within groups of these sizes, int64 [P] each (RecBole's ``_calcu_split_ids``).

    Parts are rounded down but for training; a part that would have none gets one while training has two.
    """
    test, valid = ((ratio * total).astype(np.int64) for ratio in (ratios[2], ratios[1]))
    train = total - test - valid
    going = np.ones(len(total), dtype=bool)
    for part, ratio in ((test, ratios[2]), (valid, ratios[1])):
        going &= train > 1  # RecBole stops at the first part that training has none to spare for
        more = (going & (ratio * total > 0) & (ratio * total < 1)).astype(np.int64)
        part += more
        train -= more
    return train, train + valid
