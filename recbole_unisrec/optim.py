"""Adam, but of tables with sparse gradients only the rows that a step has touched, with one moment for each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recbole_unisrec.setting_table import MANY_ITEMS, LossSettings, TrainingSettings


def learns_by_rows(loss: LossSettings, training: TrainingSettings, n_items: int) -> bool:
    """Whether ID embeddings are updated row by row (``item_optimizer``)."""
    if training.item_optimizer == "auto":
        return loss.loss != "full" and n_items >= MANY_ITEMS and not training.ema_decay
    return training.item_optimizer == "rows"


class RowAdam(torch.optim.Adam):
    """``torch.optim.Adam`` that also takes sparse gradients of embedding tables [N, d].

    Of a table only the rows of the gradient move: w_r −= lr·g_r / (√(v_r / (1 − β₂ᵗ)) + ε), where v_r is a moving average
    of the mean of g_r² over the row's own steps, t in number. There is no first moment, so that a table of N rows has
    N + N numbers beside it where Adam has 2·N·d. ``weight_decay`` is added to the gradients of these rows.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the weights once."""
        if closure is not None:
            raise ValueError("RowAdam takes no closure")
        sparse = [
            (group, p, p.grad) for group in self.param_groups for p in group["params"]
            if p.grad is not None and p.grad.is_sparse
        ]  # fmt: skip
        for _, parameter, _ in sparse:
            parameter.grad = None
        super().step()
        for group, parameter, gradient in sparse:
            assert gradient is not None
            self._move_rows(group, parameter, gradient.coalesce())
            parameter.grad = gradient

    def _move_rows(self, group: dict[str, Any], table: Tensor, gradient: Tensor) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=table.device)  # torch's Adam expects one
            state["row_moment"] = torch.zeros(len(table), dtype=torch.float32, device=table.device)
            state["row_steps"] = torch.zeros(len(table), dtype=torch.float32, device=table.device)
        rows, values = gradient.indices()[0], gradient.values()  # (U,), (U, d)
        if group["weight_decay"]:
            values = values + group["weight_decay"] * table[rows]
        state["step"] += 1
        beta = group["betas"][1]
        steps = state["row_steps"][rows] + 1
        moment = state["row_moment"][rows].lerp_(values.float().square().mean(dim=1), 1 - beta)
        state["row_steps"][rows], state["row_moment"][rows] = steps, moment
        size = group["lr"] / ((moment / (1 - beta**steps)).sqrt_() + group["eps"])
        table.index_add_(0, rows, (values * size.unsqueeze(1)).to(table.dtype), alpha=-1)


def clip_gradients(parameters: Iterable[torch.nn.Parameter], max_norm: float, **options: Any) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` that also takes sparse gradients; gives the norm before."""
    parameters = [p for p in parameters if p.grad is not None]
    if not any(p.grad is not None and p.grad.is_sparse for p in parameters):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm, **options)
    for p in parameters:
        if p.grad is not None and p.grad.is_sparse:
            p.grad = p.grad.coalesce()
    values = [p.grad._values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm(values, **options)
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    torch._foreach_mul_(values, factor)
    return total
