"""RecBole's models read rows padded to the window; here they read them as long as they are, with the same result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def trim_padding(model: nn.Module) -> None:
    """Let ``model.forward`` run on groups of rows of similar length, each cut to its longest row.

    For models whose outputs do not depend on padding to the right, such as RecBole's SASRec, GRU4Rec, BERT4Rec and
    FDSA. ``forward`` must take int64 ``item_seq`` [B, L] first, then tensors of B rows, and give [B, d] or [B, L, d];
    of the latter, what lies beyond a group's longest row is zero.
    """
    original = model.forward

    def forward(item_seq: Tensor, *others: Tensor) -> Tensor:
        parts, rows = [], []
        for index, longest in length_groups(item_seq):
            output: Any = original(item_seq[index, :longest], *(other[index] for other in others))
            if output.dim() == 3:
                output = nn.functional.pad(output, (0, 0, 0, item_seq.shape[1] - longest))
            parts.append(output)
            rows.append(index)
        return torch.cat(parts)[torch.cat(rows).argsort()]

    model.forward = forward


def length_groups(item_seq: Tensor) -> list[tuple[Tensor, int]]:
    """Rows of int64 item_seq [B, L] by length (0 is padding to the right), and the longest of each group.

    Lengths of a group lie within a factor of two of each other.
    """
    place = torch.arange(1, item_seq.shape[1] + 1, device=item_seq.device)
    length = (place * (item_seq != 0)).amax(dim=1).clamp_(min=1)
    group = length.double().log2().ceil()
    found = []
    for value in group.unique().tolist():
        index = (group == value).nonzero().squeeze(1)
        found.append((index, int(length[index].max())))
    return found
