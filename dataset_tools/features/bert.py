"""BERT's layers with less work than transformers does: one product for queries, keys and values, [CLS] alone at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOKEN_BUDGET = {"cpu": 1024, "cuda": 65536}  # padded tokens in a batch


class FastBert:
    """BERT's layers in evaluation, the same function as the model of transformers with less work.

    One product makes queries, keys and values; on a CPU the products go to oneDNN with GELU fused, which beats the
    default BLAS wherever that is MKL on a machine that Intel did not make; and where only [CLS] is wanted, the last
    layer is computed for the first position alone.

    Parameters
    ----------
    model
        A BertModel, already on its device.
    dtype
        Of the matrix products; sums, norms and softmax stay in float32.
    """

    use_onednn = True

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is a plain BERT: encoder only, absolute positions, GELU."""
        config = model.config
        return (
            type(model).__name__ == "BertModel"
            and config.hidden_act == "gelu"
            and getattr(config, "position_embedding_type", None) in (None, "absolute")
            and not getattr(config, "is_decoder", False)
        )

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        import torch

        embeddings = model.embeddings
        self.dtype, self.n_heads, self.eps = dtype, model.config.num_attention_heads, model.config.layer_norm_eps
        self.words = embeddings.word_embeddings.weight
        # every text is of the first token type, so that its vector is part of the position
        self.positions = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        self.norm = (embeddings.LayerNorm.weight, embeddings.LayerNorm.bias)
        names = ("_linear_pointwise", "_reorder_linear_weight")
        has_onednn = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
        self.onednn = self.words.device.type == "cpu" and has_onednn and self.use_onednn
        self.layers = []
        for layer in model.encoder.layer:
            attention, out = layer.attention.self, layer.attention.output
            three = (attention.query, attention.key, attention.value)
            qkv = (torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three]))
            width = self.words.shape[1]
            # queries apart as well: in the last layer they may be wanted for the first position alone
            query, key_value = [tuple(part[rows] for part in qkv) for rows in (slice(width), slice(width, None))]
            dense = [(p.weight, p.bias) for p in (out.dense, layer.intermediate.dense, layer.output.dense)]
            linears = [self._pack(*pair) for pair in (qkv, query, key_value, *dense)]
            norms = [(p.LayerNorm.weight, p.LayerNorm.bias) for p in (out, layer.output)]
            self.layers.append((*linears, *norms))

    def _pack(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights in the type of the products, for oneDNN in the order that it reads them in."""
        import torch

        weight, bias = weight.to(self.dtype), bias.to(self.dtype)
        if self.onednn:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TOKEN_BUDGET["cpu"])
        return weight, bias.contiguous()

    def _linear(self, x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], gelu: bool = False) -> torch.Tensor:
        import torch
        from torch.nn import functional

        x = x.to(self.dtype)
        if self.onednn:
            return torch.ops.mkldnn._linear_pointwise(x, *weights, "gelu" if gelu else "none", [], "none")
        y = functional.linear(x, *weights)
        return functional.gelu(y) if gelu else y

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor | None, first_only: bool) -> torch.Tensor:
        """Encode a batch.

        Parameters
        ----------
        ids
            int64 [n, L].
        mask
            bool [n, L], true where there is a token; None if that is everywhere.
        first_only
            Compute the result of the first position alone.

        Returns
        -------
        float32 [n, L, d], or [n, 1, d] with `first_only`
        """
        from torch.nn import functional

        n, longest = ids.shape
        width = self.words.shape[1]
        x = functional.layer_norm(self.words[ids] + self.positions[:longest], (width,), *self.norm, self.eps)
        bias = None if mask is None else mask[:, None, None, :]  # [n, 1, 1, L]
        for number, (qkv, query, key_value, out, up, down, norm1, norm2) in enumerate(self.layers, start=1):
            if first_only and number == len(self.layers):
                k, v = self._heads(self._linear(x, key_value), 2)
                x = x[:, :1].contiguous()
                (q,) = self._heads(self._linear(x, query), 1)
            else:
                q, k, v = self._heads(self._linear(x, qkv), 3)  # each [n, h, L, d / h]
            attended = self._attend(q, k, v, bias).transpose(1, 2).reshape(n, -1, width)
            x = functional.layer_norm(x + self._linear(attended, out), (width,), *norm1, self.eps)
            wide = self._linear(x, up, gelu=True)
            x = functional.layer_norm(x + self._linear(wide, down), (width,), *norm2, self.eps)
        return x

    def _heads(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        n, longest, width = x.shape
        return x.view(n, longest, parts, self.n_heads, width // parts // self.n_heads).permute(2, 0, 3, 1, 4)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        from torch.nn import functional

        if q.device.type != "cpu" or k.shape[2] > 128:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        # short sequences: the blocks of the fused kernel cost a CPU more than the products
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5  # [n, h, L or 1, L]
        if bias is not None:
            scores = scores.masked_fill(~bias, float("-inf"))
        return scores.softmax(-1).to(v.dtype) @ v
