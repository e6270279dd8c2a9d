"""Contrast with in-batch negatives (paper Eq. 8 to 10), without a [B, B] tensor in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_unisrec.model.losses import LOGITS_PER_BLOCK, MAX_BOUNDED_SCALE, ON_ACCELERATOR

MASKINGS = ("exclude", "authors")


class _Contrast(torch.autograd.Function):
    """Sum of the rows' losses; gradients are made block by block in forward, while the logits are at hand.

    The positive stands apart from the negatives, whose sum Σ e^l is taken in the type of the products: with w the
    logit of the positive, a loss is log(1 + Σ e^l / e^w), exact where the terms would nearly cancel.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, ids: Tensor, owner: Tensor | None, first: int, scale: float,
        exclude: bool, dtype: torch.dtype, there: Tensor | None,
    ) -> Tensor:  # fmt: skip
        accumulate = torch.float64 if query.dtype == torch.float64 else torch.float32
        q, k = (query.detach() * scale).to(dtype), key.detach().to(dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        loss = torch.zeros((), dtype=accumulate, device=q.device)
        grad_query = torch.empty(q.shape, dtype=accumulate, device=q.device) if needs_grad else None
        grad_key = torch.zeros(k.shape, dtype=accumulate, device=q.device) if needs_grad else None
        left_out = _LeftOut(ids, owner) if there is None else _Masked(ids, owner, there)
        each = q.new_ones(len(q), dtype=accumulate) if there is None else there[first : first + len(q)].to(accumulate)
        bounded = scale <= MAX_BOUNDED_SCALE  # vectors have length one: no exponential overflows
        n = max(1, (LOGITS_PER_BLOCK if q.device.type == "cpu" else ON_ACCELERATOR) // max(1, len(k)))
        for start in range(0, len(q), n):
            mine = q[start : start + n]
            place = first + start
            positive = k[place : place + len(mine)].to(accumulate)
            wanted = (mine.to(accumulate) * positive).sum(dim=1)  # (n,)
            logits = mine @ k.T  # (n, K)
            left_out.choose(place, len(mine))
            if not bounded:
                left_out.fill(logits, float("-inf"))
                top = torch.maximum(logits.amax(dim=1).to(accumulate), wanted)
                top = top if exclude else top.clamp(min=0)
                logits.sub_(top.to(dtype).unsqueeze(1))
                wanted = wanted - top.to(dtype)
            exponential = logits.exp_()
            if bounded:
                left_out.fill(exponential, 0.0)
            total = exponential.sum(dim=1, dtype=accumulate)  # of the negatives
            if not exclude:  # each adds exp(0), and moves nothing
                ones = left_out.counted()
                total = total + (ones if bounded else ones * (-top.to(dtype)).to(accumulate).exp())
            share = each[start : start + n]
            loss += (F.softplus(total.log() - wanted) * share).sum()
            if grad_query is not None and grad_key is not None:
                weight = (share / (total + wanted.exp())).unsqueeze(1)
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
        return grad_outputs[0] * grad_query, grad_outputs[0] * grad_key, *([None] * 7)


class _LeftOut:
    """Which keys are no negatives of a row: the positive, and others of its id or owner. Few are, so they are listed."""

    def __init__(self, ids: Tensor, owner: Tensor | None) -> None:
        self.item, self.owner = _Same(ids), owner
        self.same_owner = None if owner is None else _Same(owner)

    def choose(self, first: int, n: int) -> None:
        """Those of the rows ``first ... first + n - 1``."""
        row, column = self.item.of(first, n)
        self.n, self.row_of_item = n, row
        if self.owner is not None and self.same_owner is not None:
            self.row_of_item = row[self.owner[column] != self.owner[row + first]]
            row_o, column_o = self.same_owner.of(first, n)
            row, column = torch.cat([row, row_o]), torch.cat([column, column_o])
        at = torch.arange(n, device=row.device)
        self.place = torch.cat([row, at]), torch.cat([column, at + first])

    def fill(self, values: Tensor, value: float) -> None:
        """Put a value in their places of [n, K]."""
        values[self.place] = value

    def counted(self) -> Tensor:
        """int64 [n]: those of each row's id that are of other owners."""
        return torch.bincount(self.row_of_item, minlength=self.n)


class _Masked(_LeftOut):
    """The same as a mask [n, K], for batches of fixed shape: keys that are not `there` are left out too."""

    def __init__(self, ids: Tensor, owner: Tensor | None, there: Tensor) -> None:
        self.ids, self.owner, self.there = ids, owner, there

    def choose(self, first: int, n: int) -> None:
        """Those of the rows ``first ... first + n - 1``."""
        mine = slice(first, first + n)
        place = torch.arange(len(self.ids), device=self.ids.device)
        own = place[mine].unsqueeze(1) == place
        self.same = (self.ids[mine].unsqueeze(1) == self.ids) & ~own
        near = own
        if self.owner is not None:
            near = self.owner[mine].unsqueeze(1) == self.owner
        self.mask = self.same | near | own | ~self.there
        self.same &= ~near & self.there

    def fill(self, values: Tensor, value: float) -> None:
        """Put a value in their places of [n, K]."""
        values.masked_fill_(self.mask, value)

    def counted(self) -> Tensor:
        """int64 [n]: those of each row's id that are of other owners."""
        return self.same.sum(dim=1)


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
    first: int = 0, dtype: torch.dtype | None = None, there: Tensor | None = None,
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
    there
        bool [K]: rows and keys that only fill up are False and count for nothing; None is all of them there.

    Returns
    -------
    Tensor
        Scalar; divide by the size of the global batch for the mean. Maxima are taken off before the exponential where
        the temperature could make it overflow.
    """
    if masking not in MASKINGS:
        raise ValueError(f"unknown contrastive_masking {masking!r}; choose one of {', '.join(MASKINGS)}")
    loss = _Contrast.apply(
        query, key, ids, owner, first, 1 / temperature, masking == "exclude", dtype or query.dtype, there
    )  # fmt: skip
    assert isinstance(loss, Tensor)
    return loss
