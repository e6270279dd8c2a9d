"""Histories of a batch laid end to end, and the augmented view of them (paper section 3.3.2).

A row is a history, of which one or more prefixes have their next items predicted: the whole of it where batches are
made of (history, next item) pairs, all of them where they are made of segments of user sequences. Nothing is padded.
Draws come from a hash of (seed, epoch, row, place), so that they depend neither on how rows are spread over processes
nor on where a run was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch
from recbole_unisrec.errors import UserError

PLACES = 1 << 20  # more than a history has items


@dataclass(frozen=True)
class Rows:
    """Histories end to end.

    Attributes
    ----------
    items
        int64 [T] item ids; 0 is padding and does not occur.
    length
        int64 [R] items of each history, at least 1.
    output
        int64 [P] places of `items`, ascending: a pair's history ends there.
    """

    items: Tensor
    length: Tensor
    output: Tensor

    def __len__(self) -> int:
        return len(self.length)

    @property
    def start(self) -> Tensor:
        """int64 [R] place of the first item of each row."""
        return self.length.cumsum(0) - self.length

    @property
    def position(self) -> Tensor:
        """int64 [T] places of the items in their rows."""
        return spans(self.start, self.length)[1]

    def packed(self, at_a_time: int = 0) -> tuple[list[PackedBatch], Tensor]:
        """Pack the histories for the encoder, those of one length together.

        Parameters
        ----------
        at_a_time
            Rows of each part at most; 0 makes one part.

        Returns
        -------
        tuple
            The parts, whose ``target`` is empty, and int64 [P]: which of their outputs, end to end, belongs to each pair.
        """
        parts, orders, none = [], [], torch.empty(0, dtype=torch.int64)
        first = begin = 0
        for part in self.length.split(at_a_time or len(self)):
            last = first + int(part.sum())
            end = int(torch.searchsorted(self.output, last))
            length, row = part.sort(stable=True)
            start = part.cumsum(0) - part
            place, position = spans(start[row], length)
            moved = torch.empty_like(place).scatter_(0, place, torch.arange(len(place)))
            output, pair = moved[self.output[begin:end] - first].sort(stable=True)
            orders.append(begin + torch.empty_like(pair).scatter_(0, pair, torch.arange(len(pair))))
            width, count = length.unique_consecutive(return_counts=True)
            buckets = list(zip(count.tolist(), width.tolist(), strict=True))
            parts.append(PackedBatch(self.items[first + place], position, buckets, output, none))
            first, begin = last, end
        return parts, torch.cat(orders)


def spans(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers ``start[i] ... start[i] + count[i] - 1`` of each i, end to end, and those less ``start[i]``."""
    within = torch.arange(int(count.sum())) - torch.repeat_interleave(count.cumsum(0) - count, count)
    return within + torch.repeat_interleave(start, count), within


def cut_rows(items: np.ndarray, start: np.ndarray, stop: np.ndarray, first: np.ndarray) -> Rows:
    """Copy the histories ``items[start:stop]`` end to end; the prefixes of `first` items and more predict.

    Parameters
    ----------
    items
        int32 [n] 0-based global indices; ids come out from 1.
    start, stop, first
        int64 [R], ``1 <= first <= stop - start``.
    """
    length = torch.from_numpy(stop - start)
    begin = length.cumsum(0) - length
    output, _ = spans(begin + torch.from_numpy(first) - 1, length - torch.from_numpy(first) + 1)
    return Rows(_ids(items, spans(torch.from_numpy(start), length)[0]), length, output)


def next_items(items: np.ndarray, start: np.ndarray, stop: np.ndarray, first: np.ndarray) -> Tensor:
    """int64 [P] ids that follow the prefixes of `cut_rows`."""
    return _ids(items, spans(torch.from_numpy(start + first), torch.from_numpy(stop - start - first + 1))[0])


def _ids(items: np.ndarray, place: Tensor) -> Tensor:
    return torch.from_numpy(items[place.numpy()].astype(np.int64) + 1)


def hashed_uniform(keys: np.ndarray, seed: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64, one for each uint64 key: the finaliser of SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        x = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several integers."""
    mixed = 0
    for part in parts:
        digit = hashed_uniform(np.array([part % 2**63], dtype=np.uint64), mixed)[0]
        mixed = (int(digit * 2**53) * 1_000_003 + part + 0x632BE5AB * mixed) % 2**63
    return mixed


def draws(rows: Rows, row_ids: Tensor, seed: int) -> Tensor:
    """A uniform number for each place of `rows`; it depends on `seed`, the row's id (int64 [R]) and the place only."""
    key = torch.repeat_interleave(row_ids, rows.length) * PLACES + rows.position
    return torch.from_numpy(hashed_uniform(key.numpy(), seed))


def item_drop(rows: Rows, uniform: Tensor, ratio: float) -> Rows:
    """Drop each item of the histories with probability `ratio`, never the first.

    A prefix whose last item is dropped ends at the last one that is kept, so that each prefix is left with just what
    dropping items from it alone would leave; prefixes of one row share their draws.

    Parameters
    ----------
    rows
        The plain view.
    uniform
        [T] numbers from [0, 1); an item with a number below `ratio` is dropped.
    ratio
        Share of items to drop.

    Returns
    -------
    Rows
        Shorter rows in the same order, with as many pairs.
    """
    keep = uniform >= ratio
    keep[rows.start] = True
    kept = keep.long().cumsum(0)  # items up to each place
    ends = kept[rows.length.cumsum(0) - 1]
    return Rows(rows.items[keep], torch.diff(ends, prepend=ends.new_zeros(1)), kept[rows.output] - 1)


def word_drop(rows: Rows, uniform: Tensor, ratio: float, n_items: int) -> Rows:
    """Let items take their word-drop feature with probability `ratio`: their ids rise by `n_items`.

    The first item may be chosen too, as in the authors' code.
    """
    return Rows(rows.items + (uniform < ratio).long() * n_items, rows.length, rows.output)


@dataclass(frozen=True)
class Augmentation:
    """How the second view is made.

    Attributes
    ----------
    ratio
        Share of the items that are dropped, or take their word-drop feature (``item_drop_ratio``).
    coefficient
        Probability that a batch drops items rather than words (``item_drop_coefficient``).
    n_items
        Item ids are below it; ids from it on stand for word-drop features.
    seed
        See `draws`.
    """

    ratio: float
    coefficient: float
    n_items: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("ratio", "coefficient"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"item_drop_{name} must be between 0 and 1, not {getattr(self, name)}")

    def drops_items(self, epoch: int, step: int) -> bool:
        """Whether this batch drops items; one draw for the whole batch, as in the authors' code."""
        key = np.array([step], dtype=np.uint64)
        return bool(hashed_uniform(key, mix_seed(self.seed, epoch, 1))[0] < self.coefficient)

    def view(self, rows: Rows, row_ids: Tensor, epoch: int, step: int) -> Rows:
        """The second view of a batch whose rows have the ids `row_ids` in the epoch."""
        uniform = draws(rows, row_ids, mix_seed(self.seed, epoch, 2))
        if self.drops_items(epoch, step):
            return item_drop(rows, uniform, self.ratio)
        return word_drop(rows, uniform, self.ratio, self.n_items)
