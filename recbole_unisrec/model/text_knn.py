"""Nearest texts: what the text vectors say by themselves, without any training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_unisrec.data.sequences import PackedBatch
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.text_path import with_usual
from recbole_unisrec.model.text_vectors import history_mean, last_mean, unit_features
from recbole_unisrec.setting_table import NearestTextSettings, TextSettings


class TextKNN(TableRecommender):
    """Score q·x̂_i + β·log(1 + n_i) of each item that is not in the history; nothing is trained.

    x̂ are text vectors, scaled and of length one, q = Σ_a decay^a·x̂ / √Σ_a decay^(2a) over the items of the history,
    the newest of age a = 0, and n_i is how often item i occurs in training; items held out by ``cold_items``, which nobody
    could take there, have the median.

    Parameters
    ----------
    config
        Reads ``decay``, ``popularity_weight`` (β) and ``feature_scaling``.
    dataset
        A dataset with ``features`` and ``known_features``.

    Raises
    ------
    UserError
        If a setting is out of its range.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        SequentialRecommender.__init__(self, config, dataset)  # not `TableRecommender`'s: there is no encoder
        knn, text = NearestTextSettings.from_config(config), TextSettings.from_config(config)
        self.cosine, self.temperature = False, 1.0
        self.history_bias: nn.Parameter | None = None
        self.mask_history = True
        self.candidates: Tensor | None = None
        self.text_path = None
        self._cached: tuple[tuple[int, ...], Tensor] | None = None
        features = dataset.features
        unit = unit_features(features.weight, text.feature_scaling, dataset.known_features, features.widths)
        count = with_usual(dataset.item_popularity(), dataset.cold)
        popularity = torch.log1p(count.to(unit.dtype))
        self.register_buffer(
            "table", torch.cat([unit, knn.popularity_weight * popularity.unsqueeze(1)], dim=1), persistent=False
        )
        self.table: Tensor  # (n_items, d_plm + 1)
        self.register_buffer("weight", knn.decay ** torch.arange(self.max_seq_length), persistent=False)
        self.weight: Tensor

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """Text vectors with β·log(1 + n) beside them, [n_items, d_plm + 1] or [..., d_plm + 1]."""
        return self.table if items is None else self.table[items]

    def packed_outputs(self, batch: PackedBatch, table: Tensor) -> Tensor:
        """q with a one beside it, [P, d_plm + 1]."""
        vectors = F.embedding(batch.item, table)[:, :-1].float()
        return F.pad(history_mean(vectors, batch.buckets, self.weight)[batch.output], (0, 1), value=1.0)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """q with a one beside it of right-padded histories, [B, d_plm + 1]."""
        vectors = F.embedding(item_seq, self.table)[..., :-1]
        return F.pad(last_mean(vectors, item_seq_len, self.weight), (0, 1), value=1.0)

    def _outputs(self, interaction: Interaction, table: Tensor) -> Tensor:
        return self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def calculate_loss(self, interaction: PackedBatch | Interaction) -> Tensor:
        """Refuse: there is nothing to learn."""
        raise UserError("TextKNN has nothing to learn; leave epochs at 0")
