"""Losses that look at a sample of the items in the place of all: sampled softmax with the logQ correction, and gBCE."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_unisrec.data.sequences import Seen
from recbole_unisrec.model.losses import LOGITS_PER_BLOCK, ON_ACCELERATOR


def gbce_beta(n_negatives: int, n_items: int, calibration: float) -> float:
    """β of gBCE, the power of the positive's probability (Petrov and Macdonald, RecSys 2023, Eq. 12).

    With α = ``n_negatives`` / (``n_items`` − 1), the share of the negatives that is drawn: β = α·(t·(1 − 1/α) + 1/α).

    Parameters
    ----------
    n_negatives, n_items
        Negatives of each prediction, and items of the catalogue, without padding.
    calibration
        t: 0 is binary cross-entropy (β = 1), 1 is fully calibrated (β = α).
    """
    alpha = min(1.0, n_negatives / max(1, n_items - 1))
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def gbce_offset(beta: float, drawn: Tensor) -> Tensor:
    """What gBCE adds to every logit, b = log(β / Σw), scalar of the type of `drawn`.

    At scores of 0 the one positive pulls with β·(1 − σ(b)) and the negatives push with Σw·σ(b); b makes these equal.
    Without it a new model first has to push all items down, and ends on a plateau where it ranks none: with scores that
    are products the outputs turn away from all items at once, and cosines cannot get there at all. SigLIP (Zhai et al.,
    ICCV 2023) starts its bias at such a value for the same reason. Ranks are the same with any b.

    Parameters
    ----------
    beta
        See `gbce_beta`.
    drawn
        Scalar Σw, how many negatives were drawn.
    """
    return math.log(beta) - drawn.log()


class _SampledLoss(torch.autograd.Function):
    """Makes the gradients block by block in forward, as `losses._SoftmaxCrossEntropy` does."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor | None, target: Tensor, negative: Tensor,
        log_weight: Tensor, scale: float, beta: float | None, dtype: torch.dtype, seen: Seen | None,
        counts: Tensor | None,
    ) -> Tensor:  # fmt: skip
        needs_grad = any(ctx.needs_input_grad[:3])
        n_pairs, n_negatives = len(hidden), len(negative)
        accumulate = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        exact, rows_t = hidden.detach().to(accumulate) * scale, table.detach().to(accumulate)
        goal, others = rows_t[target], rows_t[negative].to(dtype)  # (P, d), (M, d)
        mine = exact.to(dtype)
        log_weight = log_weight.to(accumulate)
        each = exact.new_full((n_pairs, 1), 1 / n_pairs) if counts is None else counts.to(accumulate).unsqueeze(1)
        wanted = (exact * goal).sum(dim=1)  # (P,) logits of the items that came next
        offset = gbce_offset(beta, log_weight.exp().sum()) if beta is not None else None
        column = torch.full((len(table),), -1, device=target.device).index_copy_(
            0, negative, torch.arange(n_negatives, device=target.device)
        )
        own = column[target]  # where the item that came next is among the negatives: no negative of this row
        added = repeated = None
        if bias is not None and seen is not None:
            added = bias.detach().to(accumulate) * scale
            repeated = (seen.item == target[seen.row]).to(accumulate)
            wanted = wanted.index_add(0, seen.row, added * repeated)
        loss = torch.zeros((), dtype=accumulate, device=target.device)
        grad_others = torch.zeros(others.shape, dtype=accumulate, device=target.device) if needs_grad else None
        grad_hidden = torch.zeros_like(exact) if needs_grad else None
        pull = torch.empty_like(wanted)  # minus the gradient of the positives' logits
        grad_bias = torch.zeros_like(added) if added is not None else None
        elements = LOGITS_PER_BLOCK if target.device.type == "cpu" else ON_ACCELERATOR
        n_rows = max(1, elements // max(1, n_negatives))
        for start in range(0, n_pairs, n_rows):
            block = slice(start, min(start + n_rows, n_pairs))
            logits = (mine[block] @ others.T).to(accumulate)  # (r, M)
            if added is not None and seen is not None:
                entries = seen.of_rows(start, block.stop)
                at = (seen.row[entries] - start, column[seen.item[entries]])
                known = (at[1] >= 0).to(accumulate)
                at = (at[0], at[1].clamp(min=0))
                logits.index_put_(at, added[entries] * known, accumulate=True)
            hit, place = (own[block] >= 0).unsqueeze(1), own[block].clamp(min=0).unsqueeze(1)
            if beta is None:
                logits += log_weight
                logits.scatter_(1, place, logits.gather(1, place).masked_fill(hit, float("-inf")))
                top = torch.maximum(logits.amax(dim=1), wanted[block]).unsqueeze(1)
                share = logits.sub_(top).exp_()
                first = (wanted[block].unsqueeze(1) - top).exp()
                total = share.sum(dim=1, keepdim=True) + first
                loss += ((total.log() + top - wanted[block].unsqueeze(1)) * each[block]).sum()
                share *= each[block] / total  # what the softmax gives to each
                pull[block] = ((1 - first / total) * each[block]).squeeze(1)
            else:
                assert offset is not None
                logits += offset
                right = -(wanted[block] + offset)
                share = torch.sigmoid(logits) * log_weight.exp()
                push = F.softplus(logits) * log_weight.exp()
                for values in (share, push):
                    values.scatter_(1, place, values.gather(1, place).masked_fill(hit, 0.0))
                loss += ((push.sum(dim=1) + beta * F.softplus(right)) * each[block, 0]).sum()
                share *= each[block]
                pull[block] = beta * torch.sigmoid(right) * each[block, 0]
            if grad_hidden is not None and grad_others is not None:
                grad_hidden[block] = share.to(dtype) @ others
                grad_others += share.to(dtype).T @ mine[block]
                if grad_bias is not None:
                    grad_bias[entries] = share[at] * known
        if grad_hidden is not None and grad_others is not None:
            grad_hidden.sub_(goal * pull.unsqueeze(1)).mul_(scale)
            grad_table = torch.zeros_like(rows_t).index_add_(0, negative, grad_others)
            grad_table.index_add_(0, target, exact * pull.unsqueeze(1), alpha=-1)
            kept = [grad_hidden.to(hidden.dtype), grad_table.to(table.dtype)]
            if grad_bias is not None and seen is not None and repeated is not None and bias is not None:
                grad_bias -= repeated * pull[seen.row]
                kept.append(grad_bias.mul_(scale).to(bias.dtype))
            ctx.save_for_backward(*kept)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads = [grad_outputs[0] * kept for kept in ctx.saved_tensors]
        return *grads, *([None] * (11 - len(grads)))


def sampled_loss(
    hidden: Tensor, table: Tensor, target: Tensor, negative: Tensor, log_weight: Tensor, scale: float = 1.0,
    beta: float | None = None, dtype: torch.dtype | None = None, seen: Seen | None = None, bias: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean loss of (prefix, next item) pairs against negatives that all pairs share.

    A negative is none of the pair whose next item it is. Without `beta` the loss is sampled softmax,
    −log(e^s₊ / (e^s₊ + Σ w·e^s)); with it gBCE, −log σ(s₊ + b)^β − Σ w·log(1 − σ(s + b)), b of `gbce_offset`. The paper
    divides by 1 + Σ w; a sum over candidates keeps gradients as large as a softmax's, and above the ε of Adam.

    Parameters
    ----------
    hidden
        [P, d] outputs.
    table
        [U, d] vectors of the items that take part.
    target
        int64 [P] rows of `table`.
    negative
        int64 [M] rows of `table`, distinct but for those of weight 0, whose row is no target.
    log_weight
        [M] log w: for sampled softmax, how often a negative was drawn over how often that was expected (the logQ
        correction; Σ w·e^s then estimates the sum over all items without bias); for gBCE, how often it was drawn.
    scale
        1 / temperature.
    beta
        See `gbce_beta`.
    dtype
        Type of the matrix products; sums are in float32, or float64 for float64 input.
    seen, bias
        Items of the histories, as rows of `table`, and [E] what is added to their scores; None adds nothing.
    counts
        [P] what each pair counts for; None is 1/P each, the mean.

    Returns
    -------
    Tensor
        Scalar. With every item a negative of weight one, sampled softmax is the full softmax.
    """
    if len(hidden) == 0:
        raise ValueError("no pair in the batch")
    loss = _SampledLoss.apply(
        hidden, table, bias, target, negative, log_weight, scale, beta, dtype or hidden.dtype, seen, counts
    )
    assert isinstance(loss, Tensor)
    return loss
