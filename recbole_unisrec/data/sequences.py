"""User sequences, kept once, and the views that training and evaluation take of them.

All arrays are linear in the number of interactions: a (prefix, next item) pair is three integers, never a padded row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recbole_unisrec.data.negatives import Drawn


@dataclass(frozen=True)
class Pairs:
    """(prefix, next item) pairs as slices of one array of items.

    Attributes
    ----------
    items
        int64 [n] item ids of all users, one user after the other.
    user
        int64 [P] user id of each pair.
    start, target
        int64 [P]: the prefix is ``items[start:target]``, the next item ``items[target]``.
    """

    items: Tensor
    user: Tensor
    start: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def where(self, mask: Tensor) -> Pairs:
        """The pairs that a bool mask [P] is True for."""
        return Pairs(self.items, self.user[mask], self.start[mask], self.target[mask])

    def padded(self, index: Tensor | slice, window: int) -> Tensor:
        """Item ids of the prefixes [k, window], right-padded with 0 (RecBole's ``item_id_list``)."""
        start, target = self.start[index], self.target[index]
        columns = start.unsqueeze(-1) + torch.arange(window)
        inside = columns < target.unsqueeze(-1)
        return torch.where(inside, self.items[columns.clamp_(max=len(self.items) - 1)], 0)


@dataclass(frozen=True)
class Segments:
    """Stretches of user sequences; the encoder reads each once and predicts many next items from it.

    Attributes
    ----------
    items
        int64 [n] item ids of all users.
    start, stop
        int64 [S]: inputs are ``items[start:stop-1]``.
    first
        int64 [S]: the next items that count are ``items[start+first:stop]``, those before have been predicted from
        another segment.
    counts
        bool [n]: which entries of `items` count as next items at all; None is all of them.
    """

    items: Tensor
    start: Tensor
    stop: Tensor
    first: Tensor
    counts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def n_pairs(self) -> Tensor:
        """int64 [S] number of (prefix, next item) pairs of each segment."""
        if self.counts is None:
            return self.stop - self.start - self.first
        before = torch.cat([torch.zeros(1, dtype=torch.int64), self.counts.cumsum(0)])
        return before[self.stop] - before[self.start + self.first]


def cut_segments(items: Tensor, start: Tensor, stop: Tensor, window: int, exact: bool = False) -> Segments:
    """Cut training stretches into segments of at most `window` inputs that predict every next item once.

    A user with at most ``window + 1`` items is one segment, and each prediction sees just what its prefix alone would.
    Of a longer user the first `window` predictions come from one segment. The others, if `exact`, each have a segment
    of their own with the `window` items before it (as RecBole cuts them; `window` times the arithmetic); otherwise
    segments overlap by half, so that each prediction sees between half a window and a window of history.

    Parameters
    ----------
    items
        int64 [n] item ids.
    start, stop
        int64 [U] bounds of the users' training items.
    window
        Longest history L.
    exact
        See above.
    """
    stride = 1 if exact else max(1, window // 2)
    n_more = (stop - start - 1 - window).clamp(min=0)  # predictions beyond the first window
    n_segments = 1 + (n_more + stride - 1) // stride
    owner = torch.repeat_interleave(torch.arange(len(start)), n_segments)
    rank = torch.arange(len(owner)) - torch.repeat_interleave(n_segments.cumsum(0) - n_segments, n_segments)
    seg_stop = torch.minimum(start[owner] + window + 1 + rank * stride, stop[owner])
    seg_start = torch.maximum(start[owner], seg_stop - window - 1)
    predicted = start[owner] + torch.where(rank == 0, 1, window + 1 + (rank - 1) * stride)
    return Segments(items, seg_start, seg_stop, predicted - seg_start)


def bucket_lengths(window: int) -> Tensor:
    """Padded lengths: every length up to 8, then steps of about a quarter; int64, ascending, the last is `window`."""
    lengths, length = [], 1
    while length < window:
        lengths.append(length)
        length += max(1, length // 5)
    return torch.tensor([*lengths, window])


@dataclass(frozen=True)
class Seen:
    """The history of each prediction of a batch, item by item.

    Attributes
    ----------
    row
        int64 [E] numbers of the predictions, ascending.
    item
        int64 [E] items of their histories.
    distance
        int64 [E] how many items ago: 0 is the last.
    offsets
        int64 [P + 1] on the CPU: prediction p has the entries ``offsets[p]`` to ``offsets[p + 1]``.
    there
        bool [E], False for entries that only fill up: each prediction has as many, in order of distance; None is all of
        them there.
    """

    row: Tensor
    item: Tensor
    distance: Tensor
    offsets: Tensor
    there: Tensor | None = None

    def to(self, device: torch.device | str) -> Seen:
        """Copy to a device, but for the offsets."""
        row, item, distance = (t.to(device, non_blocking=True) for t in (self.row, self.item, self.distance))
        there = None if self.there is None else self.there.to(device, non_blocking=True)
        return Seen(row, item, distance, self.offsets, there)

    @property
    def width(self) -> int:
        """Entries of each prediction, where all have as many (`there`)."""
        return len(self.row) // max(1, len(self.offsets) - 1)

    def of_rows(self, first: int, last: int) -> slice:
        """The entries of the predictions ``first ... last - 1``."""
        if self.there is not None:
            return slice(first * self.width, last * self.width)
        return slice(int(self.offsets[first]), int(self.offsets[last]))


def seen_entries(length: Tensor, item: Callable[[Tensor, Tensor], Tensor]) -> Seen:
    """`Seen` of histories of int64 lengths [P]; `item` gives those of predictions and distances, int64 [E] each."""
    offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
    row = torch.repeat_interleave(torch.arange(len(length), device=length.device), length)
    distance = torch.arange(len(row), device=length.device) - offsets[row]
    return Seen(row, item(row, distance), distance, offsets.cpu())


def seen_of_padded(item_seq: Tensor, item_seq_len: Tensor) -> Seen:
    """`Seen` of right-padded histories, int64 [B, L] with lengths [B]."""
    return seen_entries(item_seq_len, lambda row, distance: item_seq[row, item_seq_len[row] - 1 - distance])


@dataclass
class PackedBatch:
    """A batch of index tensors for the packed encoder (see `model.encoder`).

    Attributes
    ----------
    item, position
        int64 [T] item ids (0 where a sequence is shorter than its bucket) and positions.
    buckets
        (n, L) of each bucket, in order; Σ n·L = T.
    output
        int64 [P] rows of [T] whose outputs predict.
    target
        int64 [P] item ids to predict.
    seen
        What the histories hold, for models that ask for it.
    rows, drawn
        For a loss over a sample: int64 [U] items that take part, to whose rows `item`, `target` and `seen` then point,
        and the negatives (see `data.negatives`).
    share
        Share of this process in the pairs of the batch, where several train together.
    starts, counts, window
        Of a batch of fixed shape (see `data.fixed`), which has no buckets: int64 [T] the row at which the sequence of
        each row begins, [P] what each pair counts for, and the longest history. With a `window` above 0 `histories` have
        a fixed shape.
    filled
        Whether the last bucket only fills up (`filled_up`).
    """

    item: Tensor
    position: Tensor
    buckets: list[tuple[int, int]]
    output: Tensor
    target: Tensor
    seen: Seen | None = None
    rows: Tensor | None = None
    drawn: Drawn | None = None
    share: float = 1.0
    starts: Tensor | None = None
    counts: Tensor | None = None
    window: int = 0
    filled: bool = False

    @property
    def one_each(self) -> bool:
        """Whether there is one output of each sequence."""
        return not self.filled and len(self.output) == sum(n for n, _ in self.buckets)

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> PackedBatch:
        """Copy to a device."""
        move: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in TENSORS}
        for name in ("seen", "rows", "drawn"):
            value = getattr(self, name)
            move[name] = None if value is None else value.to(device)
        return replace(self, **move)

    def histories(self) -> Seen:
        """What each prediction has seen of its segment, up to the last input."""
        if self.seen is not None:
            return self.seen
        if self.window:
            return self._fixed_histories()
        return seen_entries(
            self.position[self.output] + 1, lambda row, distance: self.item[self.output[row] - distance]
        )

    def _fixed_histories(self) -> Seen:
        """`histories` in a fixed shape: each prediction has ``window`` entries, those too many are of item 0."""
        distance = torch.arange(self.window, device=self.item.device).repeat(len(self.output))
        row = torch.arange(len(self.output), device=self.item.device).repeat_interleave(
            self.window, output_size=len(distance)
        )
        there = distance <= self.position[self.output][row]
        item = torch.where(there, self.item[(self.output[row] - distance).clamp(min=0)], 0)
        return Seen(row, item, distance, torch.arange(len(self.output) + 1) * self.window, there)


SIZES = 64  # numbers of rows that batches are filled up to
TENSORS = ("item", "position", "output", "target")


def pack(segments: Segments, index: Tensor, lengths: Tensor) -> PackedBatch:
    """Pack the chosen segments into one batch; pairs come out sorted by bucket, not in the order of `index`."""
    start, stop, first = segments.start[index], segments.stop[index] - 1, segments.first[index]
    return _pack(segments.items, start, stop, first, lengths, segments.counts)


def filled_up(batch: PackedBatch) -> PackedBatch:
    """The batch with padding sequences of one item at its end, so that T is a multiple of `SIZES`.

    A processor's library prepares each product anew for each size, and keeps what it prepared: with a size of its own for
    every batch that took a third of the time and gigabytes of memory.
    """
    missing = -len(batch.item) % SIZES
    if not missing or batch.one_each:  # that goes a shorter way
        return batch
    nothing = batch.item.new_zeros(missing)
    item, position = torch.cat([batch.item, nothing]), torch.cat([batch.position, nothing])
    return replace(batch, item=item, position=position, buckets=[*batch.buckets, (missing, 1)], filled=True)


def pack_last(pairs: Pairs, index: Tensor, lengths: Tensor) -> tuple[PackedBatch, Tensor]:
    """Pack whole prefixes of which only the last output is wanted; also gives the order that the rows came out in."""
    start, target = pairs.start[index], pairs.target[index]
    bucket, order = torch.searchsorted(lengths, target - start).sort(stable=True)
    return pack_prefixes(pairs.items, start[order], target[order], bucket, lengths), order


def pack_prefixes(items: Tensor, start: Tensor, stop: Tensor, bucket: Tensor, lengths: Tensor) -> PackedBatch:
    """Pack the prefixes items[start:stop] where `items` lie, without any look at them; their last outputs are wanted.

    Parameters
    ----------
    items, start, stop
        int64 [n], [B] and [B] on one device; no prefix is empty.
    bucket
        int64 [B] ascending on the CPU, for each prefix the number of its padded length.
    lengths
        See `bucket_lengths`.
    """
    numbers, counts = bucket.unique_consecutive(return_counts=True)
    buckets = list(zip(counts.tolist(), lengths[numbers].tolist(), strict=True))
    packed, positions, outputs = [], [], []
    row = offset = 0
    for n, length in buckets:
        mine = slice(row, row + n)
        step = torch.arange(length, device=items.device)
        column = start[mine, None] + step  # (n, L)
        packed.append(torch.where(column < stop[mine, None], items[column.clamp(max=len(items) - 1)], 0).flatten())
        positions.append(step.expand(n, -1).flatten())
        last = (stop - start)[mine] - 1
        outputs.append(offset + length * torch.arange(n, device=items.device) + last)
        row, offset = row + n, offset + n * length
    return PackedBatch(torch.cat(packed), torch.cat(positions), buckets, torch.cat(outputs), items[stop])


def _pack(
    items: Tensor, start: Tensor, stop: Tensor, first: Tensor, lengths: Tensor, wanted: Tensor | None = None
) -> PackedBatch:
    """Inputs are items[start:stop]; output j (0-based, j >= first - 1) predicts items[start + j + 1] if that counts."""
    bucket = torch.searchsorted(lengths, stop - start)
    bucket, order = bucket.sort(stable=True)
    start, stop, first = start[order], stop[order], first[order]
    counts = torch.bincount(bucket, minlength=len(lengths))
    batch_items, positions, outputs, targets, buckets = [], [], [], [], []
    row = offset = 0
    for length, n in zip(lengths.tolist(), counts.tolist(), strict=True):
        if n == 0:
            continue
        rows = slice(row, row + n)
        step = torch.arange(length)
        column = start[rows, None] + step  # (n, L)
        real = column < stop[rows, None]
        batch_items.append(torch.where(real, items[column.clamp(max=len(items) - 1)], 0).flatten())
        positions.append(step.expand(n, -1).flatten())
        predicts = real & (step >= first[rows, None] - 1)
        if wanted is not None:
            predicts &= wanted[(column + 1).clamp(max=len(items) - 1)]
        rows_out = predicts.flatten().nonzero().squeeze(1)
        outputs.append(rows_out + offset)
        targets.append(items[column.flatten()[rows_out] + 1])
        buckets.append((n, length))
        row, offset = row + n, offset + n * length
    return PackedBatch(torch.cat(batch_items), torch.cat(positions), buckets, torch.cat(outputs), torch.cat(targets))


class PackedLoader:
    """Batches of about `batch_size` (prefix, next item) pairs; whole segments, in a new order each epoch.

    Parameters
    ----------
    segments
        What to train on.
    batch_size
        Number of pairs; a batch may exceed it by less than a segment.
    window
        Longest history.
    seed
        The order of epoch e depends on (seed, e) alone.
    shuffle
        False keeps the order of `segments`.
    with_seen
        Whether batches bring `PackedBatch.histories` along.
    """

    def __init__(
        self, segments: Segments, batch_size: int, window: int, seed: int, shuffle: bool = True, with_seen: bool = False
    ) -> None:  # fmt: skip
        self.segments, self.seed, self.shuffle, self.epoch = segments, seed, shuffle, 0
        self.with_seen = with_seen
        self.lengths = bucket_lengths(window)
        self.n_pairs = int(segments.n_pairs.sum())
        self._n_batches = max(1, round(self.n_pairs / batch_size))

    def __len__(self) -> int:
        return self._n_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def plan(self, epoch: int) -> tuple[Tensor, list[int]]:
        """Of an epoch, the segments in order, int64 [S], and where in it each batch begins, with the end."""
        order = torch.arange(len(self.segments))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.segments), generator=generator)
        seen = self.segments.n_pairs[order].cumsum(0)
        cuts = torch.arange(1, self._n_batches) * (self.n_pairs / self._n_batches)
        return order, [0, *torch.searchsorted(seen, cuts.long()).tolist(), len(order)]

    def __iter__(self) -> Iterator[PackedBatch]:
        epoch = self.epoch
        order, bounds = self.plan(epoch)
        self.epoch += 1
        for number, (first, last) in enumerate(pairwise(bounds)):
            if last > first:
                yield self.batch(order[first:last], epoch, number)

    def batch(self, index: Tensor, epoch: int, number: int) -> PackedBatch:
        """The batch of these segments, int64 [k], the `number`-th of an epoch."""
        batch = filled_up(pack(self.segments, index, self.lengths))
        if self.with_seen:
            batch.seen = batch.histories()
        return batch
