"""SASRec on the packed data path, so that speed is compared like with like (RecBole's own SASRec is the reference)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.tables import item_embedding


class SASRecPacked(TableRecommender):
    """RecBole's SASRec with cross-entropy, parameter for parameter, trained on all prefixes in one pass."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset, cosine=False, temperature=1.0)
        self.item_embedding = item_embedding(self.n_items, self.hidden_size, self.item_rows)
        self.apply(self.init_weights)

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """ID embeddings [n_items, d] or [..., d]."""
        return self.item_embedding.whole() if items is None else self.item_embedding(items)
