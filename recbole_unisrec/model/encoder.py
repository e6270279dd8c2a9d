"""SASRec-style causal Transformer that does no padding arithmetic.

Sequences lie end to end in one [T, d] matrix, sorted into buckets of equal length. A sequence shorter than its bucket
is padded on the right, which a causal encoder never looks at. Everything but attention works on the matrix as a whole.
Attention in training cuts it into rows of as many positions as the longest sequence has, so that a sequence lies in
one row or two, and lets each row look at itself and the row before: a few large products, whatever the mixture of
lengths. Without gradients it goes bucket by bucket, which copies nothing. Parameter names are those of RecBole's ``TransformerEncoder``, and so of the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_unisrec.model.dropout import Dropout, dropout
from recbole_unisrec.model.linear import linear, missing

Buckets = Sequence[tuple[int, int]]  # (number of sequences n, length L) in the order of the matrix; Σ n·L = T

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


MIN_ROW = 32  # shorter rows make many small products
HEAD_LANES = 8  # heads of a multiple of so many numbers go through one kernel on a GPU


def row_width(longest: int) -> int:
    """Width of `Rows` for sequences of so many positions at most; few widths occur, see `data.sequences.filled_up`."""
    width = max(MIN_ROW, longest)
    return width + missing(width)


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
        width = row_width(max(length for _, length in buckets))
        lengths = torch.repeat_interleave(
            torch.tensor([length for _, length in buckets]), torch.tensor([n for n, _ in buckets])
        )
        first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)  # where the sequence of a position begins
        return cls.of_starts(first, width, device)

    @classmethod
    def of_starts(cls, starts: Tensor, width: int, device: torch.device) -> Rows:
        """Rows of `width` positions, no fewer than a sequence has; `starts` [T] says where that of a position begins."""
        end, on = len(starts), starts.device
        n = -(-end // width)
        first = F.pad(starts, (0, n * width - end), value=end).view(n, width, 1)
        position = torch.arange(n * width, device=on).view(n, width, 1)
        key = position[:, :1] - width + torch.arange(2 * width, device=on)  # (n, 1, 2·width)
        mask = (key >= first) & (key <= position)
        return cls(n, width, mask.unsqueeze(1).to(device, non_blocking=True), previous=True)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, nh, width, hs], keys and values [n, nh, keys, hs] of qkv [T, 3, nh, hs]."""
        cut = self.cut(qkv)
        key, value = self.keys(cut[:, :, 1:]).permute(2, 0, 3, 1, 4)
        return cut[:, :, 0].transpose(1, 2), key, value

    def cut(self, x: Tensor) -> Tensor:
        """Rows of x [T, ...], filled up with zeros -> [n, width, ...]."""
        more = self.n * self.width - len(x)
        if more:
            x = F.pad(x, (*(0, 0) * (x.ndim - 1), 0, more))
        return x.unflatten(0, (self.n, self.width))

    def keys(self, cut: Tensor) -> Tensor:
        """What each row may look at, the row before and itself: [n, width, ...] -> [n, keys, ...]."""
        if not self.previous:
            return cut
        return torch.cat([torch.cat([torch.zeros_like(cut[:1]), cut[:-1]]), cut], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, p: float, scale: float) -> Tensor:
    """Scaled dot-product attention with dropout `p`, as ``F.scaled_dot_product_attention``."""
    if p == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p, scale=scale)
    # the library's dropout draws slowly on a CPU
    scores = query @ (key * scale).transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill_(~mask, float("-inf"))
    return dropout(scores.softmax(dim=-1).to(value.dtype), p, training=True) @ value


def attend_buckets(qkv: Tensor, buckets: Buckets) -> Tensor:
    """Causal attention within each sequence, without dropout: qkv [T, 3, nh, hs] -> [T, nh·hs]."""
    mixed, start = [], 0
    for n, length in buckets:
        cut = qkv[start : start + n * length].unflatten(0, (n, length))
        query, key, value = cut.permute(2, 0, 3, 1, 4)  # (n, nh, L, hs)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed.append(out.transpose(1, 2).reshape(n * length, -1))
        start += n * length
    return torch.cat(mixed)


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

    def project(self, x: Tensor, projections: Sequence[nn.Linear], lanes: int = 1) -> Tensor:
        """Several linear maps of x [T, d] as one product -> [T, len(projections), nh, hs].

        Heads are filled up with zeros to a multiple of `lanes` numbers.
        """
        weight, bias = torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections])
        shape = (len(projections), self.n_heads, -1)
        if more := -(x.shape[1] // self.n_heads) % lanes:
            n = len(projections) * self.n_heads
            weight = F.pad(weight.unflatten(0, (n, -1)), (0, 0, 0, more)).flatten(0, 1)
            bias = F.pad(bias.unflatten(0, (n, -1)), (0, more)).flatten()
        return linear(x, weight, bias).unflatten(-1, shape)

    def attend_rows(self, x: Tensor, rows: Rows) -> Tensor:
        """Mixed values of all positions, [T, d] -> [T, d]."""
        width = x.shape[1] // self.n_heads
        lanes = 1 if x.device.type == "cpu" else HEAD_LANES
        query, key, value = rows.split(self.project(x, (self.query, self.key, self.value), lanes))
        p = self.attn_dropout if self.training else 0.0
        mixed = attend(query, key, value, rows.mask, p, width**-0.5)[..., :width]
        return mixed.transpose(1, 2).reshape(rows.n * rows.width, -1)[: len(x)]

    def attend_buckets(self, x: Tensor, buckets: Buckets) -> Tensor:
        """`attend_rows` bucket by bucket."""
        return attend_buckets(self.project(x, (self.query, self.key, self.value)), buckets)

    def attend_last(self, x: Tensor, buckets: Buckets, last: Tensor) -> Tensor:
        """Mixed values [B, d] of the rows `last` of x [T, d] alone, without keys and values of the others.

        With q·(K x + b) = (Kᵀq)·x + q·b and Σ a·(V x + b) = V (Σ a·x) + b Σ a.
        """
        heads = (self.n_heads, -1)
        query = self.project(x[last], (self.query,)).squeeze(1) * (x.shape[1] // self.n_heads) ** -0.5  # (B, nh, hs)
        asked = torch.einsum("bhs,hsd->bhd", query, self.key.weight.unflatten(0, heads))
        constant = (query * self.key.bias.unflatten(0, heads)).sum(-1, keepdim=True).to(asked.dtype)  # (B, nh, 1)
        x, mixed, sums, row, start = x.to(asked.dtype), [], [], 0, 0
        for n, length in buckets:
            items, mine = x[start : start + n * length].view(n, length, -1), slice(row, row + n)  # (n, L, d)
            place = last[mine] - start - length * torch.arange(n, device=x.device)
            later = torch.arange(length, device=x.device) > place.view(n, 1, 1)
            logits = torch.bmm(asked[mine], items.transpose(1, 2)) + constant[mine]  # (n, nh, L)
            shares = logits.masked_fill(later, float("-inf")).softmax(dim=-1)
            shares = dropout(shares, self.attn_dropout, self.training).to(x.dtype)
            mixed.append(torch.bmm(shares, items))  # (n, nh, d)
            sums.append(shares.sum(dim=-1, keepdim=True))
            row, start = row + n, start + n * length
        value = torch.einsum("bhd,hsd->bhs", torch.cat(mixed), self.value.weight.unflatten(0, heads))
        return (value + torch.cat(sums) * self.value.bias.unflatten(0, heads)).flatten(1)

    def forward(self, x: Tensor, buckets: Buckets, rows: Rows | None, last: Tensor | None) -> Tensor:
        """See `CausalTransformer.forward`; `rows` of the `buckets`, if attention is to go by them."""
        if last is not None:
            context, kept = self.attend_last(x, buckets, last), x[last]
        else:
            context = self.attend_buckets(x, buckets) if rows is None else self.attend_rows(x, rows)
            kept = x
        return self.LayerNorm(self.out_dropout(linear(context, self.dense.weight, self.dense.bias)) + kept)


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
        inner = self.activation(linear(x, self.dense_1.weight, self.dense_1.bias))
        return self.LayerNorm(self.dropout(linear(inner, self.dense_2.weight, self.dense_2.bias)) + x)


class TransformerLayer(nn.Module):
    """Attention, then feed-forward (RecBole ``TransformerLayer``, post-norm)."""

    def __init__(self, n_heads: int, hidden_size: int, inner_size: int, hidden_dropout: float, attn_dropout: float,
                 activation: str, eps: float) -> None:  # fmt: skip
        super().__init__()
        self.multi_head_attention = MultiHeadAttention(n_heads, hidden_size, hidden_dropout, attn_dropout, eps)
        self.feed_forward = FeedForward(hidden_size, inner_size, hidden_dropout, activation, eps)

    def forward(self, x: Tensor, buckets: Buckets, rows: Rows | None, last: Tensor | None) -> Tensor:
        return self.feed_forward(self.multi_head_attention(x, buckets, rows, last))


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

    def forward(self, x: Tensor, buckets: Buckets | Rows, last: Tensor | None = None) -> Tensor:
        """Encode packed sequences.

        Parameters
        ----------
        x
            [T, d] inputs, in the order of `buckets` (see the module's docstring).
        buckets
            See the module's docstring; or the rows by which attention is to go, for all outputs.
        last
            int64 [B] the one row of each sequence whose output is wanted, in order; None for all. The last layer is
            computed for these alone.

        Returns
        -------
        Tensor
            [T, d], or [B, d].
        """
        if isinstance(buckets, Rows):
            rows: Rows | None = buckets
            buckets = ()
        else:
            rows = Rows.of(buckets, x.device) if torch.is_grad_enabled() or self.training else None
        for number, layer in enumerate(self.layer, start=1):
            x = layer(x, buckets, rows, last if number == len(self.layer) else None)
        return x
