"""SASRec-style causal Transformer that does no padding arithmetic.

Sequences lie end to end in one [T, d] matrix, sorted into buckets of equal length. A sequence shorter than its bucket
is padded on the right, which a causal encoder never looks at. Everything but attention works on the matrix as a
whole; attention looks at each bucket as [n, L, d], which is a view. Parameter names are those of RecBole's
``TransformerEncoder``, and so of the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Buckets = Sequence[tuple[int, int]]  # (number of sequences n, length L) in the order of the matrix; Σ n·L = T

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class MultiHeadAttention(nn.Module):
    """Causal self-attention with residual and LayerNorm (RecBole ``MultiHeadAttention``)."""

    def __init__(self, n_heads: int, hidden_size: int, hidden_dropout: float, attn_dropout: float, eps: float) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        self.n_heads, self.attn_dropout = n_heads, attn_dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.out_dropout = nn.Dropout(hidden_dropout)

    def forward(self, x: Tensor, buckets: Buckets) -> Tensor:  # (T, d) -> (T, d)
        projections = (self.query, self.key, self.value)
        weight = torch.cat([p.weight for p in projections])  # one product of width 3d instead of three
        bias = torch.cat([p.bias for p in projections])
        qkv = F.linear(x, weight, bias)  # (T, 3d)
        dropout = self.attn_dropout if self.training else 0.0
        outputs, start = [], 0
        for n, length in buckets:
            block = qkv[start : start + n * length].view(n, length, 3, self.n_heads, -1)
            q, k, v = block.permute(2, 0, 3, 1, 4)  # each (n, nh, L, hs)
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
            outputs.append(mixed.transpose(1, 2).reshape(n * length, -1))  # (n·L, d)
            start += n * length
        context = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return self.LayerNorm(self.out_dropout(self.dense(context)) + x)


class FeedForward(nn.Module):
    """Position-wise feed-forward with residual and LayerNorm (RecBole ``FeedForward``)."""

    def __init__(self, hidden_size: int, inner_size: int, dropout: float, activation: str, eps: float) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown hidden_act {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        self.dense_1 = nn.Linear(hidden_size, inner_size)
        self.activation = ACTIVATIONS[activation]
        self.dense_2 = nn.Linear(inner_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (T, d) -> (T, d)
        return self.LayerNorm(self.dropout(self.dense_2(self.activation(self.dense_1(x)))) + x)


class TransformerLayer(nn.Module):
    """Attention, then feed-forward (RecBole ``TransformerLayer``, post-norm)."""

    def __init__(self, n_heads: int, hidden_size: int, inner_size: int, hidden_dropout: float, attn_dropout: float,
                 activation: str, eps: float) -> None:  # fmt: skip
        super().__init__()
        self.multi_head_attention = MultiHeadAttention(n_heads, hidden_size, hidden_dropout, attn_dropout, eps)
        self.feed_forward = FeedForward(hidden_size, inner_size, hidden_dropout, activation, eps)

    def forward(self, x: Tensor, buckets: Buckets) -> Tensor:
        return self.feed_forward(self.multi_head_attention(x, buckets))


class CausalTransformer(nn.Module):
    """Stack of `TransformerLayer` over packed sequences.

    Output t of a sequence depends on its inputs 1..t only, so one pass yields the encodings of all its prefixes.
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout: float,
        attn_dropout: float,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            TransformerLayer(n_heads, hidden_size, inner_size, hidden_dropout, attn_dropout, activation, eps)
            for _ in range(n_layers)
        )

    def forward(self, x: Tensor, buckets: Buckets) -> Tensor:
        """Encode packed inputs x [T, d] (see the module docstring for `buckets`) -> [T, d]."""
        for layer in self.layer:
            x = layer(x, buckets)
        return x
