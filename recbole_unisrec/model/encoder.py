"""SASRec-style causal Transformer that does no padding arithmetic.

Sequences lie end to end in one [T, d] matrix, sorted into buckets of equal length. A sequence shorter than its bucket
is padded on the right, which a causal encoder never looks at. Everything but attention works on the matrix as a whole.
Attention cuts it into rows of as many positions as the longest sequence has, so that a sequence lies in one row or
two, and lets each row look at itself and the row before: a few large products, whatever the mixture of lengths.
Parameter names are those of RecBole's ``TransformerEncoder``, and so of the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_unisrec.model.dropout import Dropout, dropout

Buckets = Sequence[tuple[int, int]]  # (number of sequences n, length L) in the order of the matrix; Σ n·L = T

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


MIN_ROW = 32  # shorter rows make many small products


@dataclass(frozen=True)
class Rows:
    """How attention cuts the matrix of packed sequences.

    Attributes
    ----------
    n, width
        Number of rows and positions in each; ``n * width`` may exceed T by a part of a row.
    mask
        bool [n or 1, 1, width, keys]: the keys that a position may look at, those of its own sequence up to itself.
    previous
        Whether keys are those of the row before and of the row itself (keys = 2 width), or of the row alone.
    """

    n: int
    width: int
    mask: Tensor
    previous: bool

    @classmethod
    def of(cls, buckets: Buckets, device: torch.device) -> Rows:
        """Rows for packed sequences; one bucket is its own rows."""
        if len(buckets) == 1:
            n, width = buckets[0]
            return cls(n, width, torch.ones(1, 1, width, width, dtype=torch.bool, device=device).tril(), previous=False)
        width = max(MIN_ROW, max(length for _, length in buckets))
        lengths = torch.repeat_interleave(
            torch.tensor([length for _, length in buckets]), torch.tensor([n for n, _ in buckets])
        )
        end = int(lengths.sum())
        first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)  # where the sequence of a position begins
        n = -(-end // width)
        first = F.pad(first, (0, n * width - end), value=end).view(n, width, 1)
        position = torch.arange(n * width).view(n, width, 1)
        key = position[:, :1] - width + torch.arange(2 * width)  # (n, 1, 2·width)
        mask = (key >= first) & (key <= position)
        return cls(n, width, mask.unsqueeze(1).to(device, non_blocking=True), previous=True)

    def split(self, qkv: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, nh, width, hs], keys and values [n, nh, keys, hs] of qkv [T, 3d]."""
        missing = self.n * self.width - len(qkv)
        if missing:
            qkv = F.pad(qkv, (0, 0, 0, missing))
        cut = qkv.view(self.n, self.width, 3, n_heads, -1)
        query, key_value = cut[:, :, 0], cut[:, :, 1:]
        if self.previous:
            before = torch.cat([torch.zeros_like(key_value[:1]), key_value[:-1]])
            key_value = torch.cat([before, key_value], dim=1)
        key, value = key_value.permute(2, 0, 3, 1, 4)
        return query.transpose(1, 2), key, value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, p: float) -> Tensor:
    """Scaled dot-product attention with dropout `p`, as ``F.scaled_dot_product_attention``."""
    if p == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)
    # the library's dropout draws slowly on a CPU
    scores = query @ (key * query.shape[-1] ** -0.5).transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill_(~mask, float("-inf"))
    return dropout(scores.softmax(dim=-1).to(value.dtype), p, training=True) @ value


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
        self.out_dropout = Dropout(hidden_dropout)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:  # (T, d) -> (T, d)
        projections = (self.query, self.key, self.value)
        weight = torch.cat([p.weight for p in projections])  # one product of width 3d instead of three
        bias = torch.cat([p.bias for p in projections])
        query, key, value = rows.split(F.linear(x, weight, bias), self.n_heads)
        mixed = attend(query, key, value, rows.mask, self.attn_dropout if self.training else 0.0)
        context = mixed.transpose(1, 2).reshape(rows.n * rows.width, -1)[: len(x)]
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
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (T, d) -> (T, d)
        return self.LayerNorm(self.dropout(self.dense_2(self.activation(self.dense_1(x)))) + x)


class TransformerLayer(nn.Module):
    """Attention, then feed-forward (RecBole ``TransformerLayer``, post-norm)."""

    def __init__(self, n_heads: int, hidden_size: int, inner_size: int, hidden_dropout: float, attn_dropout: float,
                 activation: str, eps: float) -> None:  # fmt: skip
        super().__init__()
        self.multi_head_attention = MultiHeadAttention(n_heads, hidden_size, hidden_dropout, attn_dropout, eps)
        self.feed_forward = FeedForward(hidden_size, inner_size, hidden_dropout, activation, eps)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        return self.feed_forward(self.multi_head_attention(x, rows))


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
        self.layer: Sequence[TransformerLayer] = nn.ModuleList(  # type: ignore[assignment]
            TransformerLayer(n_heads, hidden_size, inner_size, hidden_dropout, attn_dropout, activation, eps)
            for _ in range(n_layers)
        )

    def forward(self, x: Tensor, buckets: Buckets) -> Tensor:
        """Encode packed inputs x [T, d] (see the module docstring for `buckets`) -> [T, d]."""
        rows = Rows.of(buckets, x.device)
        for layer in self.layer:
            x = layer(x, rows)
        return x
