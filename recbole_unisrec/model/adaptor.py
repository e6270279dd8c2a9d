"""Item adaptor: parametric whitening experts, mixed by a noisy gate (Hou et al., KDD 2022, Eq. 2 to 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NOISE_FLOOR = 1e-2  # the authors' noise_epsilon: the standard deviation of the gate noise never vanishes
ROWS_PER_BLOCK = 16_384  # above this the [rows, G * d] product is recomputed in backward rather than kept


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
        self.dropout = nn.Dropout(dropout)
        self.experts: Sequence[PWLayer] = nn.ModuleList(PWLayer(input_size, output_size) for _ in range(n_exps))  # type: ignore[assignment]
        self.w_gate = nn.Parameter(torch.zeros(input_size, n_exps))
        self.w_noise = nn.Parameter(torch.zeros(input_size, n_exps))
        if not whitening:
            for expert in self.experts:
                expert.bias.requires_grad_(False)

    def gates(self, x: Tensor) -> Tensor:
        """Gate weights g = softmax(x·W₂ + δ), [..., d_plm] -> [..., G]; δ = 0 outside training (Eq. 4, 5)."""
        logits = x @ self.w_gate
        if self.noisy_gating and self.training:
            deviation = F.softplus(x @ self.w_noise) + NOISE_FLOOR
            logits = logits + torch.randn_like(logits) * deviation
        return logits.softmax(dim=-1)

    def _mix(self, x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        gates = self.gates(x)  # (N, G)
        experts = (F.linear(self.dropout(x), weight) - shift).unflatten(-1, (self.n_exps, -1))  # (N, G, d)
        return torch.bmm(gates.to(experts.dtype).unsqueeze(1), experts).squeeze(1)  # (N, d)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt text features x [..., d_plm] -> v [..., d]."""
        flat = x.reshape(-1, x.shape[-1])  # (N, d_plm)
        weight = torch.cat([expert.lin.weight for expert in self.experts])  # (G·d, d_plm)
        shift = torch.cat([expert.lin.weight @ expert.bias for expert in self.experts])  # (G·d)
        if len(flat) <= ROWS_PER_BLOCK or not torch.is_grad_enabled():
            blocks = [self._mix(block, weight, shift) for block in flat.split(ROWS_PER_BLOCK)]
        else:
            blocks = [
                checkpoint(self._mix, block, weight, shift, use_reentrant=False) for block in flat.split(ROWS_PER_BLOCK)
            ]
        adapted = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return adapted.view(*x.shape[:-1], -1)
