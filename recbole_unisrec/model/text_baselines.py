"""Baselines that read texts without UniSRec's mixture of whitening experts: what is gained by the mixture?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_unisrec.data.sequences import PackedBatch
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.sasrec import SASRecPacked
from recbole_unisrec.setting_table import ZESRecSettings


class SASRecText(TableRecommender):
    """SASRec whose item vectors are a linear map of the text features, v = W·x + c; no IDs."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset, cosine=False, temperature=1.0)
        self.keep_features(dataset.features.weight, torch.float32)
        self.text_map = nn.Linear(self.features.shape[1], self.hidden_size)
        self.apply(self.init_weights)
        self.add_text_path(config, dataset)

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """Mapped texts [n_items, d] or [..., d]."""
        return self.text_map(self.features if items is None else self.features[items])


class ZESRec(SASRecText):
    """ZESRec (Ding et al., "Zero-Shot Recommender Systems", 2021) on SASRec's encoder: v = W·x + c + ε.

    The offset ε of an item has a Gaussian prior of mean zero, that is, a quadratic penalty in training; a new item
    has none.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if self.item_rows:
            raise UserError("ZESRec's penalty moves the offsets of all items at every step; set item_optimizer=adam")
        self.offset = nn.Embedding(self.n_items, self.hidden_size, padding_idx=0)
        nn.init.zeros_(self.offset.weight)
        self.offset_penalty = ZESRecSettings.from_config(config).offset_penalty

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """Mapped texts with offsets [n_items, d] or [..., d]."""
        return super().item_table(items) + (self.offset.weight if items is None else self.offset(items))

    def calculate_loss(self, interaction: PackedBatch | Any) -> Tensor:
        """Cross-entropy and ``offset_penalty`` times the mean squared length of the offsets, scalar."""
        penalty = self.offset.weight.square().sum(dim=1).mean()
        return super().calculate_loss(interaction) + self.offset_penalty * penalty


class SASRecPath(SASRecPacked):
    """SASRec, which knows items by their IDs alone, with the text's own path beside it (`model.text_path`)."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.text_encoder: str = dataset.features.encoder
        self.add_text_path(config, dataset)
