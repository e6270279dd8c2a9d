"""Full-softmax cross-entropy without a [pairs × items] tensor, and ranks without a sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_unisrec.data.sequences import SIZES, Seen
from recbole_unisrec.model.block_ranks import ItemBlocks, block_ranks
from recbole_unisrec.model.linear import missing
from recbole_unisrec.setting_table import MANY_ITEMS
from recbole_unisrec.waiting import may_look

LOGITS_PER_BLOCK = 4_000_000  # elements of the largest block of logits in memory (16 MB in float32)
ON_ACCELERATOR = 64_000_000  # the same on a GPU, where few large products are what counts
MIN_ROWS = 256  # each block is added to the table's gradient [n_items, d], so that it should not be much smaller
MAX_BOUNDED_SCALE = 60.0  # exp(60) times as many items as there may be fits in float32


def _rows_per_block(n_items: int, device: torch.device | None = None) -> int:
    on_cpu = device is None or device.type == "cpu"
    return max(MIN_ROWS, (LOGITS_PER_BLOCK if on_cpu else ON_ACCELERATOR) // n_items)


def _of_items(seen: Seen, bias: Tensor, n_items: int) -> Tensor:
    """Of each entry, the sum [E] of the biases of its item in its row: an item may be in a history many times.

    In the type of `bias`: added to logits one by one, in bfloat16, many small ones would be lost.
    """
    if seen.there is not None:  # row by row, which a GPU sorts many times as fast
        item, order = seen.item.unflatten(0, (-1, seen.width)).sort(dim=1)
        group = F.pad((item[:, 1:] != item[:, :-1]).long().cumsum(1), (1, 0))  # (P, width)
        mine = bias.view_as(item).gather(1, order)
        total = torch.zeros_like(mine).scatter_add_(1, group, mine).gather(1, group)
        return torch.empty_like(mine).scatter_(1, order, total).flatten()
    item, order = (seen.row * n_items + seen.item).sort()
    group = F.pad((item[1:] != item[:-1]).long().cumsum(0), (1, 0))
    total = torch.zeros_like(bias).index_add_(0, group, bias[order])
    return torch.empty_like(bias).index_copy_(0, order, total[group])


class _SoftmaxCrossEntropy(torch.autograd.Function):
    """Computes the gradients block by block in forward, while the logits of the block are at hand.

    With e = exp(logits) and 1/Σe taken into the [P, d] factors, the [P, N] block is passed over as seldom as can be:
    product, exponential, sum, and the two products of the gradients. Widths are filled up with zeros (see `linear`).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor | None, target: Tensor, scale: float, dtype: torch.dtype,
        bound: float, seen: Seen | None, share: Tensor | None, fixed: Tensor | None,
    ) -> Tensor:  # fmt: skip
        needs_grad = any(ctx.needs_input_grad[:3])
        (n_pairs, d), (n_items, learned) = hidden.shape, table.shape
        rows = _rows_per_block(n_items, table.device)
        added, bounded = None, bound <= MAX_BOUNDED_SCALE
        if bias is not None and seen is not None and len(bias):
            added = _of_items(seen, bias.detach(), n_items) * scale
            # looking at the sums would make the processor wait for an accelerator, where a pass costs little
            look = share is None and may_look(added)
            bounded = bounded and look and bound + float(added.amax()) <= MAX_BOUNDED_SCALE
        accumulate = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        more = -n_pairs % SIZES  # rows that count for nothing, see `data.sequences.filled_up`
        target = F.pad(target, (0, more))
        scaled = F.pad((hidden.detach() * scale).to(dtype), (0, missing(d), 0, more))
        parts = [table.detach().to(dtype)] + ([] if fixed is None else [fixed.to(dtype)])
        table_c = F.pad(torch.cat(parts, dim=1), (0, missing(d), 0, missing(n_items)))
        goal = table_c[target].to(accumulate)  # (P, d)
        mine = scaled.to(accumulate)
        each = mine.new_full((n_pairs, 1), 1 / n_pairs) if share is None else share.to(accumulate).unsqueeze(1)
        each = F.pad(each, (0, 0, 0, more))
        loss = -((mine * goal).sum(dim=1, keepdim=True) * each).sum()
        grad_bias = None
        if bias is not None and seen is not None:
            repeated = (seen.item == target[seen.row]).to(accumulate)
            grad_bias = -repeated * each[seen.row, 0]
            loss += (bias.detach() * grad_bias).sum() * scale
        grad_hidden = torch.empty_like(mine) if needs_grad else None
        width = learned + missing(learned)  # columns of the table that have a gradient, filled up
        grad_table = mine.new_zeros(len(table_c), width) if needs_grad else None
        for start in range(0, n_pairs + more, rows):
            block = slice(start, start + rows)
            logits = scaled[block] @ table_c.T  # (rows, N)
            real = logits[:, :n_items]
            if added is not None and seen is not None:
                entries = seen.of_rows(min(start, n_pairs), min(start + rows, n_pairs))
                place = (seen.row[entries] - start, seen.item[entries])
                real.index_put_(place, (real[place] + added[entries]).to(dtype))
            if not bounded:  # else e cannot overflow
                top = real.amax(dim=1, keepdim=True)
                real.sub_(top)
                loss += (top * each[block]).sum(dtype=accumulate)
            logits.exp_()
            total = real.sum(dim=1, keepdim=True, dtype=accumulate)
            loss += (total.log() * each[block]).sum()
            if grad_hidden is not None and grad_table is not None:
                weight = each[block] / total  # softmax = logits / total: only the logits are large
                torch.mul(logits @ table_c, weight, out=grad_hidden[block])
                grad_table += logits.T @ (mine[block, :width] * weight).to(dtype)
                if grad_bias is not None:
                    grad_bias[entries] += real[place] * weight[place[0], 0]
        if grad_hidden is not None and grad_table is not None:
            grad_hidden.sub_(goal.mul_(each)).mul_(scale)
            grad_table.index_add_(0, target, mine[:, :width] * each, alpha=-1)
            kept = [grad_hidden[:n_pairs, :d].to(hidden.dtype), grad_table[:n_items, :learned].to(table.dtype)]
            if grad_bias is not None and bias is not None:
                kept.append(grad_bias.mul_(scale).to(bias.dtype))
            ctx.save_for_backward(*kept)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads = [grad_outputs[0] * kept for kept in ctx.saved_tensors]
        return *grads, *([None] * (11 - len(grads)))


def softmax_cross_entropy(
    hidden: Tensor, table: Tensor, target: Tensor, scale: float = 1.0, dtype: torch.dtype | None = None,
    bound: float = float("inf"), seen: Seen | None = None, bias: Tensor | None = None, share: Tensor | None = None,
    fixed: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy of softmax(scale · (hidden·tableᵀ + bias)), exact, in memory independent of pairs × items.

    Parameters
    ----------
    hidden
        [P, d] outputs, one for each (prefix, next item) pair.
    table
        [N, d] candidates; all of them take part in the softmax.
    target
        int64 [P] rows of `table`.
    scale
        1 / temperature.
    dtype
        Type of the matrix products (bfloat16 to save time); sums are in float32, or float64 for float64 input.
    bound
        No logit without `bias` is above it: `scale`, where rows of `hidden` and `table` have length one. Up to
        `MAX_BOUNDED_SCALE` the exponentials need no maximum taken off, unless `bias` leads beyond that.
    seen, bias
        Items of the histories, and [E] what is added to their scores, of an item that is there several times the sum;
        None adds nothing.
    share
        [P] what each pair counts for; None is 1/P each, the mean.
    fixed
        [N, k] columns of the table that do not learn and stand behind the others; `hidden` is [P, d + k] then.

    Returns
    -------
    Tensor
        Scalar loss, equal to ``F.cross_entropy(scale * hidden @ table.T, target)``.
    """
    if len(hidden) == 0:
        raise ValueError("no pair in the batch")
    loss = _SoftmaxCrossEntropy.apply(
        hidden, table, bias, target, scale, dtype or hidden.dtype, bound, seen, share, fixed
    )
    assert isinstance(loss, Tensor)
    return loss


@torch.no_grad()
def target_ranks(
    hidden: Tensor,
    table: Tensor | ItemBlocks,
    target: Tensor,
    seen: Seen | None = None,
    bias: Tensor | None = None,
    each: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Rank of each target among all items, 1 is best, by counting instead of sorting.

    Equal scores are ranked by item id, as a stable descending sort does. Row 0 of `table` is padding and is no
    candidate.

    Parameters
    ----------
    hidden, table, target
        [B, d], [N, d] and int64 [B] as in `softmax_cross_entropy`; targets are at least 1.
    seen, bias
        As in `softmax_cross_entropy`.
    each
        Is shown the scores [b, N] of each block of rows, in order.

    Returns
    -------
    Tensor
        int64 [B].
    """
    n_items = len(table)
    if n_items >= MANY_ITEMS and each is None:
        return block_ranks(hidden, table, target, seen, bias)
    rows = _rows_per_block(n_items, hidden.device)
    whole = F.pad(table[:], (0, 0, 0, missing(n_items)))
    ranks = [target.new_empty(0)]
    for start in range(0, len(hidden), rows):
        block = slice(start, start + rows)
        scores = (hidden[block] @ whole.T)[:, :n_items]
        if seen is not None and bias is not None:
            entries = seen.of_rows(start, min(start + rows, len(hidden)))
            if seen.there is None:
                scores.index_put_((seen.row[entries] - start, seen.item[entries]), bias[entries], accumulate=True)
            else:  # a fixed number for each row
                item, added = (t[entries].unflatten(0, (-1, seen.width)) for t in (seen.item, bias))
                scores.scatter_add_(1, item, added)
        ranks.append(ranks_of_scores(scores, target[block]))
        if each is not None:
            each(scores)
    return torch.cat(ranks)


def ranks_of_scores(scores: Tensor, target: Tensor) -> Tensor:
    """`target_ranks` from scores [B, N], which are changed (row 0 is struck out)."""
    scores[:, 0] = float("-inf")
    column = target.unsqueeze(1)
    score = scores.gather(1, column)
    # sums of numbers are faster than those of booleans; exact below 2^24 items
    found = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)

    def count(compare: Callable[..., Tensor]) -> Tensor:
        return compare(scores, score, out=found).sum(dim=1).long()

    better = scores.shape[1] - count(torch.le)  # the other way round, so that NaN never wins
    ids = torch.arange(scores.shape[1], device=scores.device)
    if not may_look(scores):
        return better + ((scores == score) & (ids < column)).sum(dim=1) + 1
    tied = count(torch.eq) > 1
    if tied.any():
        better[tied] += ((scores[tied] == score[tied]) & (ids < column[tied])).sum(dim=1)
    return better + 1
