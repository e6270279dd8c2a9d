"""The part of a trained model that serving computes: the adaptor for new items, the encoder for histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset_tools.precision import usable_precision
from recbole_unisrec.data.sequences import Pairs, bucket_lengths, pack_last
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.adaptor import MoEAdaptor
from recbole_unisrec.model.encoder import Buckets, CausalTransformer, TransformerLayer, attend_buckets
from recbole_unisrec.model.text_vectors import history_mean

ROWS = 1024  # histories encoded at a time


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of the network, under the names that they have in a training configuration.

    Attributes
    ----------
    n_exps, plm_size
        Experts of the adaptor and width of the text features; 0 for a model that does not read text.
    window
        Longest history L that the encoder reads (``MAX_ITEM_LIST_LENGTH``).
    cosine
        Whether items and outputs are compared by cosine.
    scaled
        Whether text features are scaled before the adaptor (``feature_scaling``).
    history
        Whether items of the history have an addition to their scores (``history_bias``).
    path
        Width of the text vectors of the text's own path to the scores (``text_path``); 0 for a model without it.
    """

    n_layers: int
    n_heads: int
    hidden_size: int
    inner_size: int
    hidden_act: str
    layer_norm_eps: float
    window: int
    n_exps: int
    plm_size: int
    cosine: bool
    scaled: bool = False
    history: bool = False
    path: int = 0

    @property
    def width(self) -> int:
        """Of item vectors and outputs, the columns of the path included."""
        return self.hidden_size + (self.path + 1 if self.path else 0)

    def check(self) -> None:
        """Raise `UserError` where no network can be built; the values come from a file."""
        sizes = {n: getattr(self, n) for n in ("n_layers", "n_heads", "hidden_size", "inner_size", "window")}
        for name, value in {
            **sizes,
            "n_exps": self.n_exps + 1,
            "plm_size": self.plm_size + 1,
            "path": self.path + 1,
        }.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 16:
                raise UserError(f"{name} is {value!r} in the configuration of the model; save the model again")


class Network(nn.Module):
    """Adaptor and encoder; parameter names are those of `model.base.TableRecommender`, whose numbers it gives."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        s = settings
        self.window, self.cosine, self.hidden_size, self.path = s.window, s.cosine, s.hidden_size, s.path
        self.position_embedding = nn.Embedding(s.window, s.hidden_size)
        self.trm_encoder = CausalTransformer(
            s.n_layers, s.n_heads, s.hidden_size, s.inner_size, 0.0, 0.0, s.hidden_act, s.layer_norm_eps
        )
        self.LayerNorm = nn.LayerNorm(s.hidden_size, eps=s.layer_norm_eps)
        self.moe_adaptor = MoEAdaptor(s.n_exps, s.plm_size, s.hidden_size) if s.n_exps else None
        self.feature_mean: Tensor | None
        self.feature_matrix: Tensor | None
        width = s.plm_size if s.scaled else None
        self.register_buffer("feature_mean", None if width is None else torch.zeros(width).double())
        self.register_buffer("feature_matrix", None if width is None else torch.eye(width).double())
        self.history_bias: Tensor | None  # `TableRecommender.distance_bias`
        self.register_buffer("history_bias", torch.zeros(s.window) if s.history else None)
        for name, start in (
            ("path_mean", torch.zeros(s.path).double()),
            ("path_matrix", torch.eye(s.path).double()),
            ("path_weights", torch.ones(3)),  # `TextPath.weights`
            ("path_age", torch.ones(s.window)),  # `TextPath.age_weights`
        ):
            self.register_buffer(name, start if s.path else None)
        self.path_mean: Tensor | None
        self.path_matrix: Tensor | None
        self.path_weights: Tensor | None
        self.path_age: Tensor | None
        self.lengths = bucket_lengths(s.window)
        self._dtype = torch.float32
        self._prepared: list[_Layer] | None = None
        self.eval()

    def scaled(self, vectors: Tensor) -> Tensor:
        """Length one where similarity is the cosine."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    @torch.inference_mode()
    def adaptor_input(self, features: Tensor) -> Tensor:
        """Text features as the adaptor reads them, scaled as in training: [n, d_plm] -> [n, d_plm]."""
        if self.feature_mean is None or self.feature_matrix is None:
            return features
        return ((features.double() - self.feature_mean) @ self.feature_matrix).float()

    @torch.inference_mode()
    def adapt(self, features: Tensor) -> Tensor:
        """Text features [n, d_plm] -> item vectors [n, d], without an ID embedding."""
        assert self.moe_adaptor is not None
        return self.moe_adaptor(self.adaptor_input(features))

    @torch.inference_mode()
    def widened(self, vectors: Tensor, features: Tensor, popularity: Tensor | None = None) -> Tensor:
        """Item vectors [n, d] with the columns of the path: [n, d + d_plm + 1]; without a path as they are.

        Parameters
        ----------
        features
            float32 [n, d_plm] text features.
        popularity
            int64 [n]: how often the items occur in training; None is never.

        Returns
        -------
        Tensor
            The columns are as long as the vectors, so that a row over the length of its vector is what outputs are
            compared with.
        """
        if self.path_mean is None or self.path_matrix is None:
            return vectors
        unit = F.normalize((features.double() - self.path_mean) @ self.path_matrix, dim=1).float()
        count = torch.zeros(len(vectors)) if popularity is None else popularity.float()
        columns = torch.cat([unit, count.log1p().unsqueeze(1)], dim=1)
        return torch.cat([vectors, columns * self.lengths_of(vectors)], dim=1)

    def lengths_of(self, vectors: Tensor) -> Tensor:
        """What item vectors [n, d] are divided by where similarity is the cosine, [n, 1]; else 1."""
        if not self.cosine:
            return torch.ones(len(vectors), 1)
        return vectors[:, : self.hidden_size].norm(dim=1, keepdim=True).clamp(min=1e-12)

    @torch.inference_mode()
    def experts(self, features: Tensor) -> Tensor:
        """What each expert adds to the item vector, g_k·(x − b_k)·W_k: [n, d_plm] -> [n, G, d]."""
        assert self.moe_adaptor is not None
        adaptor, features = self.moe_adaptor, self.adaptor_input(features)
        outputs = torch.stack([expert(features) for expert in adaptor.experts], dim=1)  # (n, G, d)
        return adaptor.gates(features).unsqueeze(-1) * outputs

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights, as any module does; what `encode` prepared from the old ones is forgotten."""
        self._prepared = None
        return super().load_state_dict(*arguments, **options)

    def use_precision(self, precision: str) -> None:
        """Compute matrix products of the encoder in ``fp32`` or ``bf16``; residuals, norms and results stay float32.

        Where the processor is no good for bf16, fp32 is computed, which is said once.

        Raises
        ------
        UserError
            If the precision is unknown.
        """
        usable = usable_precision(precision)
        self._dtype, self._prepared = torch.bfloat16 if usable == "bf16" else torch.float32, None

    @torch.inference_mode()
    def encode(self, rows: Tensor, lengths: Sequence[int], vectors: Callable[[Tensor], Tensor]) -> Tensor:
        """Encode histories.

        Parameters
        ----------
        rows
            int64 [Σ lengths] items of all histories, one after the other, each from old to new.
        lengths
            Items of each history, all in 1 to `window`.
        vectors
            Gives the vectors of items, int64 [T] -> float32 [T, d], or wider, see `widened`.

        Returns
        -------
        Tensor
            float32 [B, d], normalised if `cosine`; as wide as the vectors.
        """
        if len(lengths) == 1:
            length = lengths[0]
            last = torch.tensor([length - 1])
            return self._outputs(vectors(rows), torch.arange(length), [(1, length)], last)
        stop = torch.from_numpy(np.cumsum(np.asarray(lengths, dtype=np.int64)))
        start = stop - torch.tensor(lengths)
        # pack_last also looks up what comes after each history, so one more row
        pairs = Pairs(F.pad(rows, (0, 1)), torch.zeros_like(start), start, stop)
        outputs = torch.empty(len(lengths), self.hidden_size + (self.path + 1 if self.path else 0))
        for index in torch.arange(len(lengths)).split(ROWS):
            batch, order = pack_last(pairs, index, self.lengths)
            outputs[index[order]] = self._outputs(vectors(batch.item), batch.position, batch.buckets, batch.output)
        return outputs

    def _outputs(self, vectors: Tensor, position: Tensor, buckets: Buckets, last: Tensor) -> Tensor:
        """Outputs at the rows `last` of item vectors [T, d] or wider, as wide as they are."""
        output = self.scaled(self._run(vectors[:, : self.hidden_size], position, buckets, last))
        if self.path_weights is None or self.path_age is None:
            return output
        unit = F.normalize(vectors[:, self.hidden_size : -1], dim=1)
        mean = history_mean(unit, buckets, self.path_age)[last]
        gain, kappa, beta = self.path_weights
        return torch.cat([gain * output, kappa * mean, beta.expand(len(output), 1)], dim=1)

    def _run(self, x: Tensor, position: Tensor, buckets: Buckets, last: Tensor) -> Tensor:
        """`model.encoder.CausalTransformer`, of which only the outputs at the rows `last` are wanted: [T, d] -> [B, d].

        In the last layer everything is computed for these rows alone, keys and values too: q·(K x + b) = (Kᵀq)·x + c,
        in which c falls out of the softmax, and Σ a·(V x + b) = V (Σ a·x) + b.
        """
        if self._prepared is None:
            self._prepared = [_Layer.of(layer, self._dtype) for layer in self.trm_encoder.layer]
        x = self.LayerNorm(x + self.position_embedding(position))
        for layer in self._prepared[:-1]:
            x = layer.after_attention(layer.attend(x, buckets), x)
        layer = self._prepared[-1]
        return layer.after_attention(layer.attend_last(x, buckets, last), x[last])


@dataclass(frozen=True)
class _Product:
    """x Wᵀ + b. The rows of W are filled up to a multiple of 16, which some libraries multiply 1.6 times as fast."""

    weight: Tensor
    bias: Tensor
    width: int

    @classmethod
    def of(cls, linears: Sequence[nn.Linear], dtype: torch.dtype) -> _Product:
        weight, bias = torch.cat([p.weight for p in linears]), torch.cat([p.bias for p in linears])
        fill = -len(bias) % 16
        return cls(F.pad(weight, (0, 0, 0, fill)).to(dtype), F.pad(bias, (0, fill)).to(dtype), len(bias))

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)[..., : self.width]


@dataclass(frozen=True)
class _Layer:
    """A Transformer layer with its weights as `Network._run` multiplies them."""

    query_key_value: _Product
    query: _Product
    key: Tensor  # (nh, hs, d)
    value: Tensor
    value_bias: Tensor
    dense: _Product
    dense_1: _Product
    dense_2: _Product
    activation: Callable[[Tensor], Tensor]
    norm_1: nn.LayerNorm
    norm_2: nn.LayerNorm
    n_heads: int

    @classmethod
    def of(cls, layer: TransformerLayer, dtype: torch.dtype) -> _Layer:
        attention, feed_forward = layer.multi_head_attention, layer.feed_forward
        query, key, value = attention.query, attention.key, attention.value
        heads = (attention.n_heads, -1)
        return cls(
            query_key_value=_Product.of([query, key, value], dtype),
            query=_Product.of([query], dtype),
            key=key.weight.unflatten(0, heads).to(dtype),
            value=value.weight.unflatten(0, heads).to(dtype),
            value_bias=value.bias.to(dtype),
            dense=_Product.of([attention.dense], dtype),
            dense_1=_Product.of([feed_forward.dense_1], dtype),
            dense_2=_Product.of([feed_forward.dense_2], dtype),
            activation=feed_forward.activation,
            norm_1=attention.LayerNorm,
            norm_2=feed_forward.LayerNorm,
            n_heads=attention.n_heads,
        )

    def attend(self, x: Tensor, buckets: Buckets) -> Tensor:
        """Causal self-attention before its output projection: [T, d] -> [T, d]."""
        return attend_buckets(self.query_key_value(x).unflatten(1, (3, self.n_heads, -1)), buckets)

    def attend_last(self, x: Tensor, buckets: Buckets, last: Tensor) -> Tensor:
        """The same for the rows `last` alone: [T, d] -> [B, d]."""
        query = self.query(x[last]).unflatten(-1, (self.n_heads, -1))  # (B, nh, hs)
        asked = torch.einsum("bhs,hsd->bhd", query * query.shape[-1] ** -0.5, self.key)
        x, parts, row, start = x.to(asked.dtype), [], 0, 0
        for n, length in buckets:
            items = x[start : start + n * length].view(n, length, -1)
            later = torch.arange(length) > (last[row : row + n] - start - torch.arange(n) * length).view(n, 1, 1)
            logits = torch.bmm(asked[row : row + n], items.transpose(1, 2))  # (n, nh, L)
            parts.append(torch.bmm(logits.masked_fill_(later, -torch.inf).softmax(dim=-1), items))
            row, start = row + n, start + n * length
        return torch.einsum("bhd,hsd->bhs", torch.cat(parts), self.value).flatten(1) + self.value_bias

    def after_attention(self, context: Tensor, x: Tensor) -> Tensor:
        """Output projection, residual and feed-forward: [R, d], [R, d] -> float32 [R, d]."""
        x = self.norm_1(self.dense(context) + x)
        return self.norm_2(self.dense_2(self.activation(self.dense_1(x))) + x)
