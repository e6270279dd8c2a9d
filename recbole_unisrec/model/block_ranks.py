"""Ranks among millions of items: the catalogue goes by in blocks, and no row of scores is ever whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import Seen
from recbole_unisrec.waiting import may_look

SCORES_PER_BLOCK = 16_000_000  # elements of the largest block of scores (64 MB in float32)
ROUNDING = 1e-6  # scores nearer than this share of their size are the same


class ItemBlocks:
    """Item vectors as outputs are compared with, made when they are asked for: millions of them are not held twice.

    Parameters
    ----------
    table
        [N, d] of the encoder's vectors.
    vectors
        Gives from rows of `table` [n, d], float32, and which rows they are what outputs are compared with, [n, d'].
    """

    def __init__(self, table: Tensor, vectors: Callable[[Tensor, Tensor | slice], Tensor]) -> None:
        self.table, self.vectors = table, vectors

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.vectors(self.table[rows].float(), rows)


@torch.no_grad()
def block_ranks(
    hidden: Tensor, table: Tensor | ItemBlocks, target: Tensor, seen: Seen | None = None, bias: Tensor | None = None
) -> Tensor:
    """`losses.target_ranks` for tables of millions of rows, without a copy of the table; it may be made on the way.

    The score of the target comes from a product of its own, so scores that differ by rounding alone are ties, which go
    by item id.

    Parameters
    ----------
    hidden, table, target, seen, bias
        As in `losses.target_ranks`.

    Returns
    -------
    Tensor
        int64 [B].
    """
    n_rows, n_items = len(hidden), len(table)
    width = max(1, SCORES_PER_BLOCK // max(1, n_rows))
    score = (hidden * table[target]).sum(dim=1)  # (B,)
    extra = None
    if seen is not None and bias is not None and len(bias):
        extra = bias.to(score.dtype)
        score = score.index_add(0, seen.row, extra * (seen.item == target[seen.row]))
    margin = ROUNDING * (score.abs() + 1)
    above, below = (score + margin).unsqueeze(1), (score - margin).unsqueeze(1)
    rank = torch.ones(n_rows, dtype=torch.int64, device=hidden.device)
    for start in range(1, n_items, width):  # not the padding item
        stop = min(start + width, n_items)
        scores = hidden @ table[start:stop].T  # (B, width)
        if extra is not None and seen is not None:
            mine = (seen.item >= start) & (seen.item < stop)
            if may_look(hidden):  # few are
                entries = mine.nonzero().squeeze(1)
                row, item, added = seen.row[entries], seen.item[entries], extra[entries]
            else:
                row, item, added = seen.row, seen.item.clamp(start, stop - 1), extra * mine
            scores.index_put_((row, item - start), added, accumulate=True)
        better = ~(scores <= above)  # the other way round, so that NaN never wins
        tied = ~better & (scores >= below)
        ids = torch.arange(start, stop, device=hidden.device)
        better &= ids != target.unsqueeze(1)
        rank += better.sum(dim=1) + (tied & (ids < target.unsqueeze(1))).sum(dim=1)
    return torch.where(torch.isfinite(score), rank, n_items)  # a score that is none is the last, not the best
