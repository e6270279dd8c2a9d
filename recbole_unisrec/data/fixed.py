"""Batches of few fixed shapes, made where the model is: what a GPU needs to run a step as one graph.

Sequences lie end to end without padding between them. A batch has room for as many positions and pairs as the largest of
the epoch, which is little more than any of them, as batches are cut to one number of pairs; what fills it up counts for
nothing. The host never looks at the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, PackedLoader, Segments

PARTS = 32  # shapes are multiples of so many parts of a batch, so that the next epoch has the same


@dataclass(frozen=True)
class Shape:
    """Size of a batch.

    Attributes
    ----------
    positions, pairs
        T and P; there are at most P segments.
    """

    positions: int
    pairs: int


def pack_fixed(segments: Segments, order: Tensor, bounds: Tensor, shape: Shape, window: int) -> PackedBatch:
    """Pack segments ``order[first:last]`` into a batch of a given shape, without any look from the host.

    Parameters
    ----------
    segments
        On the device; the last one must be empty (``stop - start = 1``), it fills batches up (see `with_empty`).
    order
        int64 [S] numbers of segments.
    bounds
        int64 [2]: first and last. What they choose must fit into `shape`.
    shape, window
        See `Shape`; longest history.

    Returns
    -------
    PackedBatch
        With ``starts`` and ``counts`` (see there); padded pairs have the target 0 and count for nothing.
    """
    device = order.device
    place = bounds[0] + torch.arange(shape.pairs, device=device)
    empty = len(segments) - 1
    index = torch.where(place < bounds[1], order[place.clamp(max=len(order) - 1)], empty)  # (P,) segments
    start, first = segments.start[index], segments.first[index]
    ends = (segments.stop[index] - 1 - start).cumsum(0)  # (P,) where the next one begins
    row = torch.arange(shape.positions, device=device)
    owner = torch.searchsorted(ends, row, right=True)  # (T,); beyond the last: len(ends)
    real = owner < shape.pairs
    owner = owner.clamp(max=shape.pairs - 1)
    begin = torch.where(real, ends[owner] - (segments.stop[index] - 1 - start)[owner], row)
    position = row - begin
    at = torch.where(real, start[owner] + position, 0)
    item = torch.where(real, segments.items[at], 0)
    wanted = real & (position >= first[owner] - 1)
    # the rows that predict, in order, and then some that do not; a cumulative sum sorts without a look at the data
    rank = torch.where(wanted, wanted.cumsum(0) - 1, shape.pairs)
    output = torch.zeros(shape.pairs + 1, dtype=torch.int64, device=device).scatter_(0, rank, row)[: shape.pairs]
    n_pairs = wanted.sum()
    counts = torch.arange(shape.pairs, device=device) < n_pairs
    target = torch.where(counts, segments.items[(at[output] + 1).clamp(max=len(segments.items) - 1)], 0)
    return PackedBatch(
        item, position.clamp(max=window - 1), [], output, target, starts=begin, counts=counts / n_pairs, window=window
    )


def with_empty(segments: Segments, device: torch.device | str) -> Segments:
    """The segments on a device, with an empty one at the end."""
    first = segments.items.new_zeros(1)
    return Segments(
        segments.items.to(device),
        *(torch.cat([values, first + add]).to(device) for values, add in
          ((segments.start, 0), (segments.stop, 1), (segments.first, 1))),
    )  # fmt: skip


class FixedPlan:
    """The batches of a `PackedLoader` in fixed shapes, with the sequences and the order of each epoch on the device.

    Parameters
    ----------
    loader
        Whose segments, order and bounds are taken.
    device
        Where everything lies.
    """

    def __init__(self, loader: PackedLoader, device: torch.device | str) -> None:
        self.loader = loader
        self.window = int(loader.lengths[-1])
        self.segments = with_empty(loader.segments, device)
        self.order = torch.zeros(len(loader.segments), dtype=torch.int64, device=device)
        self.bounds = torch.zeros(2, dtype=torch.int64, device=device)
        self.quantum = max(1, loader.n_pairs // len(loader) // PARTS)
        self.shape = Shape(0, 0)
        self._positions = loader.segments.stop - loader.segments.start - 1
        self.steps: Tensor = self.bounds.unsqueeze(0)

    def epoch(self, epoch: int) -> list[Shape]:
        """Put an epoch's order and bounds on the device; the shapes of its steps, one unless an epoch needs more."""
        order, cuts = self.loader.plan(epoch)
        self.order.copy_(order, non_blocking=True)
        used = [(first, last) for first, last in pairwise(cuts) if last > first]
        self.steps = torch.tensor(used).to(self.order.device, non_blocking=True)
        seen = [torch.cat([order.new_zeros(1), values[order].cumsum(0)]) for values in
                (self._positions, self.loader.segments.n_pairs)]  # fmt: skip
        first, last = torch.tensor(used).T
        most = (int((total[last] - total[first]).max()) for total in seen)
        positions, pairs = (-(-size // self.quantum) * self.quantum for size in most)
        self.shape = Shape(max(positions, self.shape.positions), max(pairs, self.shape.pairs))
        return [self.shape] * len(used)

    def choose(self, number: int) -> None:
        """Point to the `number`-th step of the epoch."""
        self.bounds.copy_(self.steps[number])

    def batch(self, shape: Shape) -> PackedBatch:
        """The batch that `choose` points to; the same operations for every batch of a shape."""
        return pack_fixed(self.segments, self.order, self.bounds, shape, self.window)
