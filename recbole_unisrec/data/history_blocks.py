"""Histories to rank the next items of, packed block by block, where the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, Pairs, Seen
from recbole_unisrec.waiting import may_look


@dataclass(frozen=True)
class HistoryBlock:
    """Some pairs of a split, of which the last outputs are wanted.

    Attributes
    ----------
    index
        int64 [B] numbers of the pairs, in the order of the batch.
    batch
        Their histories; ``output`` are the last places.
    seen
        What the histories hold, if the model wants to know.
    """

    index: Tensor
    batch: PackedBatch
    seen: Seen | None


def history_blocks(
    pairs: Pairs,
    order: Tensor,
    room: int,
    lengths: Tensor,
    histories: Callable[[PackedBatch], Seen | None],
    device: torch.device,
) -> Iterator[HistoryBlock]:
    """Pack pairs on a device, some at a time. The host looks at lengths alone, and waits for nothing.

    Parameters
    ----------
    pairs
        On the CPU.
    order
        int64 [n] the pairs to pack, by length: few lengths are in each block.
    room
        Items that the histories of a block may have, padding included.
    lengths
        See `data.sequences.bucket_lengths`.
    histories
        See `model.base.TableRecommender.histories`.
    device
        Where the blocks are wanted.
    """
    bucket = torch.searchsorted(lengths, (pairs.target - pairs.start)[order])
    items, start, target, order = (t.to(device) for t in (pairs.items, pairs.start, pairs.target, order))
    for first, stop in pairwise(_cuts(lengths[bucket], room)):
        numbers, counts = bucket[first:stop].unique_consecutive(return_counts=True)
        buckets = list(zip(counts.tolist(), lengths[numbers].tolist(), strict=True))
        index = order[first:stop]
        batch = _pack(items, start[index], target[index], buckets)
        yield HistoryBlock(index, batch, histories(batch))


def _cuts(width: Tensor, room: int) -> list[int]:
    """Where blocks begin, and the end: as many of int64 `width` [n] as fit into `room`, one at least."""
    ends, cuts = width.cumsum(0), [0]
    while cuts[-1] < len(width):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(torch.searchsorted(ends, before + room, right=True))))
    return cuts


def _pack(items: Tensor, start: Tensor, stop: Tensor, buckets: list[tuple[int, int]]) -> PackedBatch:
    """The histories items[start:stop], in the order of their `buckets`, of which the last outputs are wanted."""
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
    # on a GPU what is seen has a fixed shape, which a look at the lengths would spoil
    window = 0 if may_look(items) else buckets[-1][1]
    return PackedBatch(torch.cat(packed), torch.cat(positions), buckets, torch.cat(outputs), items[stop], window=window)
