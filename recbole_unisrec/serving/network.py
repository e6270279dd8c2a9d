"""The part of a trained model that serving computes: the adaptor for new items, the encoder for histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_unisrec.data.sequences import Pairs, bucket_lengths, pack_last
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.adaptor import MoEAdaptor
from recbole_unisrec.model.encoder import Buckets, CausalTransformer

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

    def check(self) -> None:
        """Raise `UserError` where no network can be built; the values come from a file."""
        sizes = {n: getattr(self, n) for n in ("n_layers", "n_heads", "hidden_size", "inner_size", "window")}
        for name, value in {**sizes, "n_exps": self.n_exps + 1, "plm_size": self.plm_size + 1}.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 16:
                raise UserError(f"{name} is {value!r} in the configuration of the model; save the model again")


class Network(nn.Module):
    """Adaptor and encoder; parameter names are those of `model.base.TableRecommender`, whose numbers it gives."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        s = settings
        self.window, self.cosine = s.window, s.cosine
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
        self.lengths = bucket_lengths(s.window)
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
    def experts(self, features: Tensor) -> Tensor:
        """What each expert adds to the item vector, g_k·(x − b_k)·W_k: [n, d_plm] -> [n, G, d]."""
        assert self.moe_adaptor is not None
        adaptor, features = self.moe_adaptor, self.adaptor_input(features)
        outputs = torch.stack([expert(features) for expert in adaptor.experts], dim=1)  # (n, G, d)
        return adaptor.gates(features).unsqueeze(-1) * outputs

    @torch.inference_mode()
    def encode(self, vectors: Tensor, lengths: Sequence[int]) -> Tensor:
        """Encode histories.

        Parameters
        ----------
        vectors
            float32 [Σ lengths, d] item vectors of all histories, one after the other, each from old to new.
        lengths
            Items of each history, all in 1 to `window`.

        Returns
        -------
        Tensor
            float32 [B, d], normalised if `cosine`.
        """
        if len(lengths) == 1:
            length = lengths[0]
            return self.scaled(self._run(vectors, torch.arange(length), [(1, length)], torch.tensor([length - 1])))
        stop = torch.from_numpy(np.cumsum(np.asarray(lengths, dtype=np.int64)))
        start = stop - torch.tensor(lengths)
        # pack_last also looks up what comes after each history, so one more row
        pairs = Pairs(torch.arange(len(vectors) + 1), torch.zeros_like(start), start, stop)
        outputs = torch.empty(len(lengths), vectors.shape[1])
        for index in torch.arange(len(lengths)).split(ROWS):
            batch, order = pack_last(pairs, index, self.lengths)
            outputs[index[order]] = self._run(vectors[batch.item], batch.position, batch.buckets, batch.output)
        return self.scaled(outputs)

    def _run(self, x: Tensor, position: Tensor, buckets: Buckets, last: Tensor) -> Tensor:
        """`model.encoder.CausalTransformer`, of which only the outputs at the rows `last` are wanted: [T, d] -> [B, d].

        The last layer computes keys and values for all rows, and everything else for these alone.
        """
        x = self.LayerNorm(x + self.position_embedding(position))
        for number, layer in enumerate(self.trm_encoder.layer, start=1):
            attention = layer.multi_head_attention
            three = (attention.key, attention.value, attention.query)
            if number < len(self.trm_encoder.layer):
                cut = _cut(x, three, buckets, attention.n_heads)
                mixed = [F.scaled_dot_product_attention(q, k, v, is_causal=True) for k, v, q in cut]
            else:
                cut = _cut(x, three[:2], buckets, attention.n_heads)
                x = x[last]
                query = attention.query(x).unflatten(-1, (1, attention.n_heads, -1)).transpose(1, 2)  # (B, nh, 1, hs)
                mixed, row, start = [], 0, 0
                for (n, length), (k, v) in zip(buckets, cut, strict=True):
                    place = last[row : row + n] - start - torch.arange(n) * length
                    mask = (torch.arange(length) <= place.unsqueeze(1)).view(n, 1, 1, length)
                    mixed.append(F.scaled_dot_product_attention(query[row : row + n], k, v, attn_mask=mask))
                    row, start = row + n, start + n * length
            context = torch.cat([part.transpose(1, 2).flatten(0, 1).flatten(1) for part in mixed])
            x = layer.feed_forward(attention.LayerNorm(attention.dense(context) + x))
        return x


def _cut(x: Tensor, projections: Sequence[nn.Linear], buckets: Buckets, n_heads: int) -> list[Tensor]:
    """Projections of packed rows [T, d] by bucket, [projections, n, nh, L, hs] each; one product for all."""
    weight, bias = torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections])
    rows, parts, start = F.linear(x, weight, bias), [], 0
    for n, length in buckets:
        block = rows[start : start + n * length].view(n, length, len(projections), n_heads, -1)
        parts.append(block.permute(2, 0, 3, 1, 4))
        start += n * length
    return parts
