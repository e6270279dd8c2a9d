"""Histories to rank the next items of, packed block by block, where the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, Pairs, Seen, pack_prefixes
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
        index = order[first:stop]
        batch = pack_prefixes(items, start[index], target[index], bucket[first:stop], lengths)
        if not may_look(items):  # then what is seen has a fixed shape
            batch.window = batch.buckets[-1][1]
        yield HistoryBlock(index, batch, histories(batch))


def _cuts(width: Tensor, room: int) -> list[int]:
    """Where blocks begin, and the end: as many of int64 `width` [n] as fit into `room`, one at least."""
    ends, cuts = width.cumsum(0), [0]
    while cuts[-1] < len(width):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(torch.searchsorted(ends, before + room, right=True))))
    return cuts
