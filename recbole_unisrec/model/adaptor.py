"""Item adaptor: parametric whitening experts, mixed by a noisy gate (Hou et al., KDD 2022, Eq. 2 to 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_unisrec.model.dropout import Dropout

NOISE_FLOOR = 1e-2  # the authors' noise_epsilon: the standard deviation of the gate noise never vanishes
ROWS_PER_BLOCK = 16_384  # rows of the [rows, G·d] product in memory; of more rows it is made again in backward


class PWLayer(nn.Module):
    """Parameters of one expert: parametric whitening x̃ = (x − b)·W (Eq. 2).

    Parameters
    ----------
    input_size, output_size
        Widths d_plm of the text features and d of the items.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(input_size))
        self.lin = nn.Linear(input_size, output_size, bias=False)
        nn.init.normal_(self.lin.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Whiten x [..., d_plm] -> [..., d]; `MoEAdaptor` computes the same for all experts at once."""
        return self.lin(x - self.bias)


class _Experts(torch.autograd.Function):
    """Σ_k g_k · x·W_k for all rows: one product for all experts, and three passes over it instead of autograd's dozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, weight: Tensor) -> Tensor:
        n_exps = gates.shape[1]
        keep = len(x) <= ROWS_PER_BLOCK
        mixed, kept = [], x.new_empty(0)
        for rows, gate in zip(x.split(ROWS_PER_BLOCK), gates.split(ROWS_PER_BLOCK), strict=True):
            product = F.linear(rows, weight).unflatten(-1, (n_exps, -1))  # (n, G, d)
            mixed.append(torch.bmm(gate.unsqueeze(1), product).squeeze(1))  # (n, d)
            kept = product if keep else kept
        ctx.save_for_backward(x, gates, weight, kept)
        return torch.cat(mixed) if len(mixed) > 1 else mixed[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, gates, weight, kept = ctx.saved_tensors
        needs_x, needs_gates, needs_weight = ctx.needs_input_grad
        n_exps = gates.shape[1]
        grad_x, grad_gates, grad_weight = [], [], None
        parts = (t.split(ROWS_PER_BLOCK) for t in (x, gates, grad_outputs[0]))
        for rows, gate, grad in zip(*parts, strict=True):
            if needs_gates:
                product = kept if len(kept) else F.linear(rows, weight).unflatten(-1, (n_exps, -1))
                grad_gates.append((product * grad.unsqueeze(1)).sum(-1))
            if needs_weight or needs_x:
                each = (gate.unsqueeze(-1) * grad.unsqueeze(1)).flatten(1)  # (n, G·d)
                if needs_weight:
                    part = each.T @ rows
                    grad_weight = part if grad_weight is None else grad_weight + part
                if needs_x:
                    grad_x.append(each @ weight)
        return (
            torch.cat(grad_x) if needs_x else None,
            torch.cat(grad_gates) if needs_gates else None,
            grad_weight,
        )


class MoEAdaptor(nn.Module):
    """Mixture-of-experts adaptor v = Σ_k g_k · (drop(x) − b_k)·W_k (Eq. 3 to 5).

    Parameter names are those of the authors' ``MoEAdaptorLayer``, so that their checkpoints load. All experts are one
    matrix product, and they share one dropout mask (the authors draw one mask for each expert).

    Parameters
    ----------
    n_exps
        Number of experts G.
    input_size, output_size
        d_plm and d.
    dropout
        Probability of dropping an input coordinate of the experts (not of the gate).
    noise
        Whether the gate is noisy in training: δ = Norm()·softplus(x·W₃).
    whitening
        False removes the learned shift b (an ablation: plain linear experts).
    """

    def __init__(
        self,
        n_exps: int,
        input_size: int,
        output_size: int,
        dropout: float = 0.0,
        noise: bool = True,
        whitening: bool = True,
    ) -> None:
        super().__init__()
        self.n_exps, self.noisy_gating, self.whitening = n_exps, noise, whitening
        self.dropout = Dropout(dropout)
        self.experts: Sequence[PWLayer] = nn.ModuleList(PWLayer(input_size, output_size) for _ in range(n_exps))  # type: ignore[assignment]
        self.w_gate = nn.Parameter(torch.zeros(input_size, n_exps))
        self.w_noise = nn.Parameter(torch.zeros(input_size, n_exps))
        if not whitening:
            for expert in self.experts:
                expert.bias.requires_grad_(False)

    def gates(self, x: Tensor) -> Tensor:
        """Gate weights g = softmax(x·W₂ + δ), [..., d_plm] -> [..., G]; δ = 0 outside training (Eq. 4, 5)."""
        if not (self.noisy_gating and self.training):
            return (x @ self.w_gate).softmax(dim=-1)
        both = x @ torch.cat([self.w_gate, self.w_noise], dim=1)  # products so narrow cost the same one by one
        logits, spread = both.chunk(2, dim=-1)
        deviation = F.softplus(spread) + NOISE_FLOOR
        return (logits + torch.randn_like(logits) * deviation).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt text features x [..., d_plm] -> v [..., d]."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.w_gate.dtype
        flat = x.reshape(-1, x.shape[-1]).to(dtype)  # (N, d_plm)
        gates = self.gates(flat)  # (N, G)
        weight = torch.cat([expert.lin.weight for expert in self.experts])  # (G·d, d_plm)
        weight = weight.to(dtype)
        # what the whitening takes off is the same for all rows but for the gates
        bias = torch.stack([expert.bias for expert in self.experts]).to(dtype)  # (G, d_plm)
        shift = torch.bmm(weight.unflatten(0, (self.n_exps, -1)), bias.unsqueeze(-1)).squeeze(-1)  # (G, d)
        gates = gates.to(dtype)
        adapted = _Experts.apply(self.dropout(flat), gates, weight) - gates @ shift
        return adapted.view(*x.shape[:-1], -1)
