"""Rows of a batch laid end to end, and the augmented view of them (paper section 3.3.2).

A batch is one array of item ids: of each row the history and then the next item, [h_1 ... h_n, t]. Nothing is padded.
Draws come from a hash of (seed, epoch, row, place), so that they depend neither on how rows are spread over processes
nor on where a run was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, Pairs, pack_last
from recbole_unisrec.errors import UserError

PLACES = 1 << 20  # more than a history has items


@dataclass(frozen=True)
class Rows:
    """Histories with their next items, end to end.

    Attributes
    ----------
    items
        int64 [T + B] item ids; 0 is padding and does not occur.
    length
        int64 [B] items of each history, at least 1; row b takes ``length[b] + 1`` places.
    """

    items: Tensor
    length: Tensor

    def __len__(self) -> int:
        return len(self.length)

    @property
    def start(self) -> Tensor:
        """int64 [B] place of the first item of each row."""
        return (self.length + 1).cumsum(0) - self.length - 1

    @property
    def target(self) -> Tensor:
        """int64 [B] next items."""
        return self.items[(self.length + 1).cumsum(0) - 1]

    def pack(self, lengths: Tensor, at_a_time: int = 0) -> tuple[list[PackedBatch], Tensor]:
        """Histories for the packed encoder.

        Parameters
        ----------
        lengths
            Padded lengths (`data.sequences.bucket_lengths`).
        at_a_time
            Rows of each part at most; 0 makes one part.

        Returns
        -------
        tuple
            The parts, and int64 [B]: which of their outputs, end to end, belongs to row b.
        """
        start = self.start
        pairs = Pairs(self.items, start, start, start + self.length)
        parts = [pack_last(pairs, rows, lengths) for rows in torch.arange(len(self)).split(at_a_time or len(self))]
        row = torch.cat([order + i * at_a_time for i, (_, order) in enumerate(parts)])
        return [packed for packed, _ in parts], torch.empty_like(row).scatter_(0, row, torch.arange(len(row)))


def cut_rows(items: np.ndarray, start: np.ndarray, target: np.ndarray) -> Rows:
    """Copy the rows ``items[start:target + 1]`` of 0-based int32 [n] `items` end to end; ids come out from 1."""
    length = target - start
    begin = np.cumsum(length + 1) - length - 1
    place = np.arange(int((length + 1).sum())) + np.repeat(start - begin, length + 1)
    return Rows(torch.from_numpy(items[place].astype(np.int64) + 1), torch.from_numpy(length))


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
    """A uniform number for each place of `rows`; it depends on `seed`, the row's id (int64 [B]) and the place only."""
    place = torch.arange(len(rows.items)) - torch.repeat_interleave(rows.start, rows.length + 1)
    key = torch.repeat_interleave(row_ids, rows.length + 1) * PLACES + place
    return torch.from_numpy(hashed_uniform(key.numpy(), seed))


def item_drop(rows: Rows, uniform: Tensor, ratio: float) -> Rows:
    """Drop each item of the histories with probability `ratio`, never the first; the next item stays.

    Parameters
    ----------
    rows
        The plain view.
    uniform
        [T + B] numbers from [0, 1); an item with a number below `ratio` is dropped.
    ratio
        Share of items to drop.

    Returns
    -------
    Rows
        Shorter rows in the same order; positions follow from the places.
    """
    keep = uniform >= ratio
    ends = (rows.length + 1).cumsum(0)
    keep[rows.start] = True
    keep[ends - 1] = True
    kept = keep.long().cumsum(0)
    total = kept[ends - 1]
    return Rows(rows.items[keep], torch.diff(total, prepend=total.new_zeros(1)) - 1)


def word_drop(rows: Rows, uniform: Tensor, ratio: float, n_items: int) -> Rows:
    """Let items take their word-drop feature with probability `ratio`: their ids rise by `n_items`.

    The first item may be chosen too, as in the authors' code; next items stay as they are.
    """
    chosen = uniform < ratio
    chosen[(rows.length + 1).cumsum(0) - 1] = False
    return Rows(rows.items + chosen.long() * n_items, rows.length)


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
