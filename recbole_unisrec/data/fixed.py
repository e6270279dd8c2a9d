"""Batches of few fixed shapes, made where the model is: what a GPU needs to run a step as one graph.

Sequences lie end to end without padding between them. A batch has room for as many positions and pairs as the largest of
the epoch, which is little more than any of them, as batches are cut to one number of pairs; what fills it up counts for
nothing. The host never looks at the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from recbole_unisrec.data.loader import PackedTrainLoader
from recbole_unisrec.data.negatives import Drawn, NegativeSampler
from recbole_unisrec.data.sequences import PackedBatch, Segments

PARTS = 16  # shapes are multiples of so many parts of a batch, so that most epochs have the same
DRAWN_TOGETHER = 64  # steps whose negatives go to the device in one copy


@dataclass(frozen=True)
class Shape:
    """Size of a batch.

    Attributes
    ----------
    positions, pairs
        T and P; there are at most P segments.
    items
        Of a loss over a sample, U: the items that take part are no more.
    """

    positions: int
    pairs: int
    items: int = 0


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


def distinct(ids: Tensor, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct numbers in a fixed shape, without any look from the host.

    Parameters
    ----------
    ids
        int64 [n]; 0 must be among them, and no more than `room` different ones.
    room
        Length of the answer.

    Returns
    -------
    tuple
        int64 [room] distinct numbers, ascending, then zeros that fill up; int64 [n] the place of each of `ids` among
        them; int64 [room] how often each is there, 0 for what fills up.
    """
    ordered, order = ids.sort()
    first = torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]])
    rank = first.cumsum(0) - 1
    rows = torch.zeros(room, dtype=torch.int64, device=ids.device).scatter_(0, rank, ordered)
    count = torch.zeros_like(rows).scatter_add_(0, rank, torch.ones_like(rank))
    return rows, torch.empty_like(rank).scatter_(0, order, rank), count


def localise_fixed(batch: PackedBatch, drawn: Tensor, sampler: NegativeSampler, room: int) -> PackedBatch:
    """`negatives.localise` of a batch of fixed shape, with the weights of its negatives.

    Parameters
    ----------
    batch
        See `pack_fixed`.
    drawn
        int64 [n] items that were drawn beside the batch's own (`NegativeSampler.draw_items`).
    sampler
        On the device of the batch.
    room
        See `Shape.items`.
    """
    assert batch.counts is not None
    zero = drawn.new_zeros(1)
    candidates = torch.cat([zero, drawn, batch.target]) if sampler.with_batch else torch.cat([zero, drawn])
    negative, _, count = distinct(candidates, len(candidates))
    n_targets = (batch.counts > 0).sum()
    log_weight = sampler.log_weight(negative, count.double(), n_targets).masked_fill(negative == 0, float("-inf"))
    rows, place, _ = distinct(torch.cat([zero, batch.item, batch.target, negative]), room)
    item, target, negative = place[1:].split([len(batch.item), len(batch.target), len(negative)])
    return replace(batch, item=item, target=target, rows=rows, drawn=Drawn(negative, log_weight))


def with_empty(segments: Segments, device: torch.device | str) -> Segments:
    """The segments on a device, with an empty one at the end."""
    first = segments.items.new_zeros(1)
    return Segments(
        segments.items.to(device),
        *(torch.cat([values, first + add]).to(device) for values, add in
          ((segments.start, 0), (segments.stop, 1), (segments.first, 1))),
    )  # fmt: skip


class FixedPlan:
    """The batches of a `PackedTrainLoader` in fixed shapes, with the sequences and the order of each epoch on the device.

    Negatives are those of the loader. They are drawn on the host, many steps together; all else is made on the device.

    Parameters
    ----------
    loader
        Whose segments, order and bounds are taken.
    device
        Where everything lies.
    """

    def __init__(self, loader: PackedTrainLoader, device: torch.device | str) -> None:
        self.loader = loader
        self.sampler = None if loader.sampler is None else loader.sampler.to(device)
        self.drawn = torch.zeros(self.sampler.n_drawn if self.sampler else 0, dtype=torch.int64, device=device)
        self.drawn_together: Tensor = self.drawn.unsqueeze(0)
        self.window = int(loader.lengths[-1])
        self.segments = with_empty(loader.segments, device)
        self.order = torch.zeros(len(loader.segments), dtype=torch.int64, device=device)
        self.bounds = torch.zeros(2, dtype=torch.int64, device=device)
        self.quantum = max(1, loader.n_pairs // len(loader) // PARTS)
        self._positions = loader.segments.stop - loader.segments.start - 1
        self.steps: Tensor = self.bounds.unsqueeze(0)
        self.number, self.numbers = 0, [0]  # of the epoch, and of its batches that hold anything

    def epoch(self, epoch: int) -> list[Shape]:
        """Put an epoch's order and bounds on the device; the shapes of its steps, which are one.

        It follows from the epoch alone, and with it the draws of dropout, wherever a run is taken up again.
        """
        order, cuts = self.loader.plan(epoch)
        self.order.copy_(order, non_blocking=True)
        used = [(first, last) for first, last in pairwise(cuts) if last > first]
        self.steps = torch.tensor(used).to(self.order.device, non_blocking=True)
        seen = [torch.cat([order.new_zeros(1), values[order].cumsum(0)]) for values in
                (self._positions, self.loader.segments.n_pairs)]  # fmt: skip
        begin, end = torch.tensor(used).T
        most = (int((total[end] - total[begin]).max()) for total in seen)
        positions, pairs = (-(-size // self.quantum) * self.quantum for size in most)
        shape = Shape(positions, pairs, self._room(positions, pairs, int((end - begin).max())))
        self.number = epoch
        self.numbers = [number for number, (first, last) in enumerate(pairwise(cuts)) if last > first]
        return [shape] * len(used)

    def _room(self, positions: int, pairs: int, n_segments: int) -> int:
        """How many items can take part in a step: next items are inputs too, but for the last of each segment."""
        if self.sampler is None:
            return 0
        last = -(-n_segments // self.quantum) * self.quantum
        own = min(positions + last, positions + pairs)
        return min(1 + own + self.sampler.n_drawn, self.loader.dataset.item_num)

    def choose(self, number: int) -> None:
        """Point to the `number`-th step of the epoch."""
        self.bounds.copy_(self.steps[number])
        if self.loader.sampler is None or not len(self.drawn):
            return
        if number % DRAWN_TOGETHER == 0:
            numbers = self.numbers[number : number + DRAWN_TOGETHER]
            drawn = [self.loader.sampler.draw_items(self.loader.drawing(self.number, n)) for n in numbers]
            self.drawn_together = torch.stack(drawn).to(self.drawn.device)
        self.drawn.copy_(self.drawn_together[number % DRAWN_TOGETHER])

    def batch(self, shape: Shape) -> PackedBatch:
        """The batch that `choose` points to; the same operations for every batch of a shape."""
        batch = pack_fixed(self.segments, self.order, self.bounds, shape, self.window)
        return batch if self.sampler is None else localise_fixed(batch, self.drawn, self.sampler, shape.items)
