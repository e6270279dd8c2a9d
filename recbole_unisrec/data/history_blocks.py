"""Histories to rank the next items of, packed block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, Pairs, Seen, pack_last


@dataclass(frozen=True)
class HistoryBlock:
    """Some pairs of a split, of which the last outputs are wanted.

    Attributes
    ----------
    index
        int64 [B] numbers of the pairs, in the order of the batch.
    batch
        See `data.sequences.pack_last`.
    seen
        What the histories hold, if the model wants to know.
    """

    index: Tensor
    batch: PackedBatch
    seen: Seen | None

    def to(self, device: torch.device | str) -> HistoryBlock:
        """Copy to a device."""
        seen = None if self.seen is None else self.seen.to(device)
        return HistoryBlock(self.index.to(device, non_blocking=True), self.batch.to(device), seen)


def history_blocks(
    pairs: Pairs, parts: Iterable[Tensor], lengths: Tensor, histories: Callable[[PackedBatch], Seen | None]
) -> Iterator[HistoryBlock]:
    """Pack the pairs of each of `parts`, int64 [B] numbers; empty ones are passed over.

    Parameters
    ----------
    pairs, lengths
        As in `data.sequences.pack_last`.
    histories
        See `model.base.TableRecommender.histories`.
    """
    for index in parts:
        if len(index):
            batch, place = pack_last(pairs, index, lengths)
            yield HistoryBlock(index[place], batch, histories(batch))
