"""TedRec: texts and IDs of a whole history fused in the frequency domain."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.data.sequences import PackedBatch
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.adaptor import NOISE_FLOOR
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.dropout import Dropout
from recbole_unisrec.model.tables import item_embedding
from recbole_unisrec.setting_table import TedRecSettings


class TedRec(TableRecommender):
    """TedRec (Xu et al., "Sequence-level Semantic Representation Fusion for Recommender Systems", CIKM 2024), from scratch.

    Texts go through experts that know their position p, t = Σ_k g_k · (drop(x) − b_kp)·W_k, with a noisy gate g. Let F be
    the discrete Fourier transform over the L positions of the window, the history first and zeros behind it, e the ID
    embeddings and W learned complex weights. Then

        u = F⁻¹(F(e) ⊙ W),  m = F⁻¹(F(e) ⊙ F(t)),  h = 2·(σ(u·a + a₀)·u + σ(m·c + c₀)·m)

    are the inputs of SASRec's encoder. The score is the cosine of its last output with the ID embedding, divided by τ.

    A product of spectra is a circular convolution over the whole window: every position hears of all others, the later ones
    too. A sequence that predicts all of its items in one pass would show each prediction the item that it is to find.
    So each prefix is transformed by itself, in packed batches too, and trains as long as RecBole's prefixes do.
    The authors' padding items have an embedding of their own (never trained) and an adapted text, which the transform
    mixes in; here both are zero.

    Parameters
    ----------
    config
        Reads ``n_exps``, ``adaptor_dropout_prob`` and ``temperature`` (τ).
    dataset
        A dataset with ``features``.

    Raises
    ------
    UserError
        If the text features are to stay in their file.
    """

    fixed_shapes = False  # a step cannot be recorded as a CUDA graph

    def __init__(self, config: Any, dataset: Any) -> None:
        s = TedRecSettings.from_config(config)
        super().__init__(config, dataset, cosine=True, temperature=s.temperature)
        if isinstance(dataset.features.weight, MappedFeatures):
            raise UserError("TedRec reads the texts of whole histories at every step; set features_on=device")
        self.keep_features(dataset.features.weight, torch.float32)
        self.features: Tensor
        width, n = self.features.shape[1], self.max_seq_length
        self.n_exps = s.n_exps
        self.item_embedding = item_embedding(self.n_items, self.hidden_size, self.item_rows)
        self.expert = nn.ModuleList(nn.Linear(width, self.hidden_size, bias=False) for _ in range(s.n_exps))
        self.shift = nn.Parameter(torch.zeros(s.n_exps, n, width))
        self.gate = nn.Parameter(torch.zeros(width, s.n_exps))
        self.gate_noise = nn.Parameter(torch.zeros(width, s.n_exps))
        self.text_dropout = Dropout(s.adaptor_dropout_prob)
        self.filter = nn.Parameter(torch.randn(n // 2 + 1, self.hidden_size, 2) * self.initializer_range)
        self.id_gate, self.mixed_gate = nn.Linear(self.hidden_size, 1), nn.Linear(self.hidden_size, 1)
        self.apply(self.init_weights)
        self.add_text_path(config, dataset)

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """ID embeddings [n_items, d] or [..., d]: what outputs are compared with."""
        return self.item_embedding.whole() if items is None else self.item_embedding(items)

    def adapted(self, x: Tensor, position: Tensor) -> Tensor:
        """Texts [T, d_plm] at int64 positions [T] through the experts -> [T, d]."""
        logits = x @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.gate_noise) + NOISE_FLOOR)
        gates = logits.softmax(dim=-1).unsqueeze(-1)  # (T, G, 1)
        parts = [
            gates[:, k] * (expert(self.text_dropout(x)) - expert(self.shift[k])[position])
            for k, expert in enumerate(self.expert)
        ]
        return torch.stack(parts).sum(dim=0)

    def fused(self, ids: Tensor, texts: Tensor) -> Tensor:
        """The inputs of the encoder from ID embeddings and adapted texts, all [B, L, d] with zeros behind each history."""
        n = ids.shape[1]
        spectrum = torch.fft.rfft(ids, dim=1, norm="ortho")
        weight = torch.view_as_complex(self.filter.to(ids.dtype))
        alone = torch.fft.irfft(spectrum * weight, n=n, dim=1, norm="ortho")
        mixed = torch.fft.irfft(spectrum * torch.fft.rfft(texts, dim=1, norm="ortho"), n=n, dim=1, norm="ortho")
        return 2 * (alone * self.id_gate(alone).sigmoid() + mixed * self.mixed_gate(mixed).sigmoid())

    def prefix_outputs(self, item_seq: Tensor, length: Tensor, vectors: Tensor) -> Tensor:
        """Outputs [B, d] at the last items of right-padded histories.

        Parameters
        ----------
        item_seq, length
            int64 [B, M] items, M at most the window, and int64 [B] lengths.
        vectors
            [B, M, d] their ID embeddings.
        """
        width = item_seq.shape[1]
        room = (0, 0, 0, self.max_seq_length - width)

        def inputs(order: Tensor, place: Tensor, valid: Tensor) -> Tensor:
            ids = vectors[order]
            texts = torch.zeros_like(ids)
            texts[valid] = self.adapted(F.embedding(item_seq[order][valid], self.features), place[valid]).to(ids.dtype)
            with torch.autocast(ids.device.type, enabled=False):  # there is no transform of half precision
                whole = torch.promote_types(ids.dtype, torch.float32)
                ids, texts = ((t * valid.unsqueeze(-1)).to(whole) for t in (ids, texts))
                return self.fused(F.pad(ids, room), F.pad(texts, room))[:, :width][valid]

        return self.by_length(length, width, inputs)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Encode right-padded histories, int64 [B, M] with lengths [B] -> [B, d], not normalised."""
        return self.prefix_outputs(item_seq, item_seq_len, self.item_table(item_seq))

    def packed_outputs(self, batch: PackedBatch, table: Tensor) -> Tensor:
        """Outputs [P, d] that predict `batch.target`, each from its own prefix, normalised; wider with a `text_path`."""
        length = batch.position[batch.output] + 1  # (P,)
        place = torch.arange(int(length.max()), device=length.device)
        rows = (batch.output - length + 1).unsqueeze(1) + place  # of the packed items: (P, M)
        rows = torch.where(place < length.unsqueeze(1), rows, batch.output.unsqueeze(1))
        entry = batch.item[rows]
        items = entry if batch.rows is None else batch.rows[entry]
        output = self.scaled(self.prefix_outputs(items, length, F.embedding(entry, table)))
        return self.beside_path(output, lambda path: path.packed(batch))

    def _outputs(self, interaction: Interaction, table: Tensor) -> Tensor:
        item_seq = interaction[self.ITEM_SEQ]
        last = self.prefix_outputs(item_seq, interaction[self.ITEM_SEQ_LEN], F.embedding(item_seq, table))
        return self._compared(last, interaction)
