"""Contrast with in-batch negatives (paper Eq. 8 to 10), without a [B, B] tensor in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MASKINGS = ("exclude", "authors")
LOGITS_PER_BLOCK = 4_000_000  # elements of the largest block of logits (16 MB in float32)


class _Contrast(torch.autograd.Function):
    """Sum of the rows' losses; gradients are made block by block in forward, while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, ids: Tensor, key_ids: Tensor, first: int, scale: float,
        exclude: bool, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        accumulate = torch.float64 if query.dtype == torch.float64 else torch.float32
        q, k = query.detach().to(dtype), key.detach().to(dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        loss = torch.zeros((), dtype=accumulate, device=q.device)
        grad_query = torch.empty(q.shape, dtype=accumulate, device=q.device) if needs_grad else None
        grad_key = torch.zeros(k.shape, dtype=accumulate, device=q.device) if needs_grad else None
        n = max(1, LOGITS_PER_BLOCK // max(1, len(k)))
        repeated = _repeated(key_ids)
        for start in range(0, len(q), n):
            block = slice(start, min(start + n, len(q)))
            positive = k[first + block.start : first + block.stop]
            logits = (q[block] @ k.T).to(accumulate).mul_(scale)  # (n, K)
            at = torch.arange(len(logits), device=q.device)
            wanted = logits[at, at + first + start]
            rows = repeated[first + block.start : first + block.stop].nonzero().squeeze(1)
            if len(rows):  # few rows have another of their id in the batch
                same = _same_of_rows(ids[block], key_ids, first + start, rows)
                logits[rows] = logits[rows].masked_fill(same, float("-inf") if exclude else 0.0)
            top = logits.amax(dim=1, keepdim=True)
            total = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
            loss += (total.log() + (top - wanted.unsqueeze(1))).sum()  # row by row: the terms nearly cancel
            if grad_query is not None and grad_key is not None:
                softmax = logits.div_(total)
                if len(rows) and not exclude:
                    softmax[rows] = softmax[rows].masked_fill(same, 0.0)  # a constant logit moves nothing
                weight = softmax.to(dtype)
                mine = q[block]
                grad_query[block] = ((weight @ k).to(accumulate) - positive) * scale
                grad_key += (weight.T @ mine).to(accumulate) * scale
                grad_key[first + block.start : first + block.stop] -= mine.to(accumulate) * scale
        if grad_query is not None and grad_key is not None:
            ctx.save_for_backward(grad_query.to(query.dtype), grad_key.to(key.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_key = ctx.saved_tensors
        return grad_outputs[0] * grad_query, grad_outputs[0] * grad_key, *([None] * 6)


def _repeated(ids: Tensor) -> Tensor:
    """bool [K]: ids that occur more than once."""
    _, inverse, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    return (counts > 1)[inverse]


def _same_of_rows(ids: Tensor, key_ids: Tensor, first: int, rows: Tensor) -> Tensor:
    """bool [len(rows), K]: keys of the id of some rows of a block, but for their positives."""
    same = ids[rows].unsqueeze(1) == key_ids
    same[torch.arange(len(rows), device=ids.device), first + rows] = False
    return same


def contrast(
    query: Tensor, key: Tensor, ids: Tensor, temperature: float, masking: str = "exclude",
    key_ids: Tensor | None = None, first: int = 0, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Sum over rows of −log( exp(q·k₊/τ) / Σ_k exp(q·k/τ) ), where keys of the row's own id are no negatives.

    Parameters
    ----------
    query
        [B, d], length one.
    key
        [K, d], length one; the positive of row i is ``key[first + i]``.
    ids
        int64 [B] ids of the rows.
    temperature
        τ.
    masking
        ``exclude``: another key of the row's id leaves the sum. ``authors``: its logit becomes 0, so that it still
        adds exp(0) (their code; for comparison).
    key_ids
        int64 [K] ids of the keys; None takes `ids` (K = B).
    first
        See `key`; the place of this process's rows in the global batch.
    dtype
        Of the matrix products; sums are in float32 (float64 for float64).

    Returns
    -------
    Tensor
        Scalar; divide by the size of the global batch for the mean. Maxima are taken off before the exponential, so
        that no temperature overflows.
    """
    if masking not in MASKINGS:
        raise ValueError(f"unknown contrastive_masking {masking!r}; choose one of {', '.join(MASKINGS)}")
    loss = _Contrast.apply(
        query, key, ids, ids if key_ids is None else key_ids, first, 1 / temperature, masking == "exclude",
        dtype or query.dtype,
    )  # fmt: skip
    assert isinstance(loss, Tensor)
    return loss
