"""A batch of pre-training: two views of the same histories, packed over their distinct items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, filled_up
from recbole_unisrec.pretrain.views import Rows


@dataclass
class PretrainBatch:
    """The rows of one process, in two views, over the distinct items of both.

    Attributes
    ----------
    unique
        int64 [U] distinct ids, ascending (see the module).
    features
        float32 [U, d_plm], or None where the table lies on the device.
    plain, view
        Packed histories, in parts that go through the encoder one after the other; ``item`` counts rows of `unique`,
        ``target`` is empty.
    plain_order, view_order
        int64 [b]: which of the outputs, end to end, belongs to pair i.
    target
        int64 [b] rows of `unique`: the next items.
    ids
        int64 [B] next items of the global batch.
    owner
        int64 [B] segments that the pairs of the global batch come from, which are no negatives of one another; None
        where each pair stands by itself.
    sizes
        Pairs of each process; this one has ``sizes[rank]``.
    """

    unique: Tensor
    features: Tensor | None
    plain: list[PackedBatch]
    plain_order: Tensor
    view: list[PackedBatch]
    view_order: Tensor
    target: Tensor
    ids: Tensor
    owner: Tensor | None
    sizes: list[int]

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> PretrainBatch:
        """Copy to a device."""

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(each) for each in value]
            if isinstance(value, PackedBatch):
                return value.to(device)
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return PretrainBatch(**{name: move(getattr(self, name)) for name in self.__dataclass_fields__})


def make_batch(
    plain: Rows, view: Rows, target: Tensor, features: Any, n_ids: int, ids: Tensor | None = None,
    owner: Tensor | None = None, sizes: list[int] | None = None, at_a_time: int = 0,
) -> PretrainBatch:  # fmt: skip
    """Pack two views of the same histories over their distinct items.

    Parameters
    ----------
    plain, view
        With the same number b of pairs.
    target
        int64 [b] ids of their next items.
    features
        Gives float32 [U, d_plm] of distinct ids; None leaves features out.
    n_ids
        Ids are below it.
    ids, owner, sizes
        See `PretrainBatch`; without them the batch is one process's.
    at_a_time
        See `views.Rows.packed`.
    """
    (parts, order), (view_parts, view_order) = plain.packed(at_a_time), view.packed(at_a_time)
    seen = torch.zeros(n_ids, dtype=torch.bool)  # faster than a sort
    for found in (plain.items, view.items, target):
        seen[found] = True
    unique = seen.nonzero().squeeze(1)
    row_of = torch.empty(n_ids, dtype=torch.int64)
    row_of[unique] = torch.arange(len(unique))
    for part in (*parts, *view_parts):
        part.item = row_of[part.item]
    parts, view_parts = ([filled_up(part) for part in of] for of in (parts, view_parts))
    gathered = features[unique] if features is not None else None
    ids = target if ids is None else ids
    return PretrainBatch(
        unique, gathered, parts, order, view_parts, view_order, row_of[target], ids, owner, sizes or [len(target)]
    )  # fmt: skip
