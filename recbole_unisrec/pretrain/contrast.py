"""Contrast with in-batch negatives (paper Eq. 8 to 10), without a [B, B] tensor in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_unisrec.model.losses import MAX_BOUNDED_SCALE

MASKINGS = ("exclude", "authors")
LOGITS_PER_BLOCK = 4_000_000  # elements of the largest block of logits (16 MB in float32)


class _Contrast(torch.autograd.Function):
    """Sum of the rows' losses; gradients are made block by block in forward, while the logits are at hand.

    The positive stands apart from the negatives, whose sum Σ e^l is taken in the type of the products: with w the
    logit of the positive, a loss is log(1 + Σ e^l / e^w), exact where the terms would nearly cancel.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, ids: Tensor, owner: Tensor | None, first: int, scale: float,
        exclude: bool, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        accumulate = torch.float64 if query.dtype == torch.float64 else torch.float32
        q, k = (query.detach() * scale).to(dtype), key.detach().to(dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        loss = torch.zeros((), dtype=accumulate, device=q.device)
        grad_query = torch.empty(q.shape, dtype=accumulate, device=q.device) if needs_grad else None
        grad_key = torch.zeros(k.shape, dtype=accumulate, device=q.device) if needs_grad else None
        same_item, same_owner = _Same(ids), _Same(owner) if owner is not None else None
        bounded = scale <= MAX_BOUNDED_SCALE  # vectors have length one: no exponential overflows
        n = max(1, LOGITS_PER_BLOCK // max(1, len(k)))
        for start in range(0, len(q), n):
            mine = q[start : start + n]
            place = first + start
            positive = k[place : place + len(mine)].to(accumulate)
            wanted = (mine.to(accumulate) * positive).sum(dim=1)  # (n,)
            logits = mine @ k.T  # (n, K)
            row, column = same_item.of(place, len(mine))
            if same_owner is not None:
                far = owner[column] != owner[row + place]  # type: ignore[index]
                counted, (row_o, column_o) = row[far], same_owner.of(place, len(mine))
                row, column = torch.cat([row, row_o]), torch.cat([column, column_o])
            else:
                counted = row
            at = torch.arange(len(mine), device=q.device)
            row, column = torch.cat([row, at]), torch.cat([column, at + place])  # and the positives
            if not bounded:
                logits[row, column] = float("-inf")
                top = torch.maximum(logits.amax(dim=1).to(accumulate), wanted)
                top = top if exclude else top.clamp(min=0)
                logits.sub_(top.to(dtype).unsqueeze(1))
                wanted = wanted - top.to(dtype)
            exponential = logits.exp_()
            if bounded:
                exponential[row, column] = 0.0
            total = exponential.sum(dim=1, dtype=accumulate)  # of the negatives
            if not exclude:  # each adds exp(0), and moves nothing
                ones = torch.bincount(counted, minlength=len(mine))
                total = total + (ones if bounded else ones * (-top.to(dtype)).to(accumulate).exp())
            loss += F.softplus(total.log() - wanted).sum()
            if grad_query is not None and grad_key is not None:
                weight = (1 / (total + wanted.exp())).unsqueeze(1)
                pull = total.unsqueeze(1) * weight  # 1 - softmax of the positive
                grad_query[start : start + n] = ((exponential @ k) * weight - positive * pull) * scale
                exact = mine.to(accumulate)
                grad_key += exponential.T @ (exact * weight).to(dtype)
                grad_key[place : place + len(mine)] -= exact * pull
        if grad_query is not None and grad_key is not None:
            ctx.save_for_backward(grad_query.to(query.dtype), grad_key.to(key.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_key = ctx.saved_tensors
        return grad_outputs[0] * grad_query, grad_outputs[0] * grad_key, *([None] * 6)


class _Same:
    """Which others have the id of a row; few do."""

    def __init__(self, ids: Tensor) -> None:
        ordered, self.order = ids.sort()
        self.begin = torch.searchsorted(ordered, ids)
        self.count = torch.searchsorted(ordered, ids, right=True) - self.begin

    def of(self, first: int, n: int) -> tuple[Tensor, Tensor]:
        """Row (from 0) and column of all pairs of the rows ``first ... first + n - 1`` and others of their ids."""
        row = (self.count[first : first + n] > 1).nonzero().squeeze(1)
        count = self.count[first + row]
        row = torch.repeat_interleave(row, count)
        within = torch.arange(len(row), device=row.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
        column = self.order[self.begin[first + row] + within]
        other = column != row + first
        return row[other], column[other]


def contrast(
    query: Tensor, key: Tensor, ids: Tensor, temperature: float, masking: str = "exclude", owner: Tensor | None = None,
    first: int = 0, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Sum over rows of −log( exp(q·k₊/τ) / Σ_k exp(q·k/τ) ), where keys of the row's own id are no negatives.

    Parameters
    ----------
    query
        [b, d], length one.
    key
        [K, d], length one; the positive of row i is ``key[first + i]``.
    ids
        int64 [K] ids of the keys; the row i has ``ids[first + i]``.
    temperature
        τ.
    masking
        ``exclude``: another key of the row's id leaves the sum. ``authors``: its logit becomes 0, so that it still
        adds exp(0) (their code; for comparison).
    owner
        int64 [K]: another key of the row's owner leaves the sum too.
    first
        See `key`; the place of this process's rows in the global batch.
    dtype
        Of the matrix products; sums are in float32 (float64 for float64).

    Returns
    -------
    Tensor
        Scalar; divide by the size of the global batch for the mean. Maxima are taken off before the exponential where
        the temperature could make it overflow.
    """
    if masking not in MASKINGS:
        raise ValueError(f"unknown contrastive_masking {masking!r}; choose one of {', '.join(MASKINGS)}")
    loss = _Contrast.apply(
        query, key, ids, owner, first, 1 / temperature, masking == "exclude", dtype or query.dtype
    )  # fmt: skip
    assert isinstance(loss, Tensor)
    return loss
