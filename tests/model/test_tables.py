"""Tables of item embeddings come from one place, and another engine can be put in there."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recbole_unisrec.model.tables import ItemEmbedding, item_embedding, tables_by
from tests.test_plugin import prepared


class Halves(nn.Module):
    """Rows in two tables, as an engine that shards them would have it."""

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__()
        self.cut = n_items // 2
        self.low, self.high = nn.Embedding(self.cut, width), nn.Embedding(n_items - self.cut, width)

    def forward(self, items: Tensor) -> Tensor:
        return self.whole()[items]

    def whole(self) -> Tensor:
        return torch.cat([self.low.weight, self.high.weight])


def test_models_take_their_tables_from_the_factory(ring: Path, small: dict[str, Any]) -> None:
    made = []

    def factory(n_items: int, width: int, sparse: bool) -> Halves:
        made.append((n_items, width, sparse))
        return Halves(n_items, width)

    for model, own in (("SASRecPacked", {}), ("UniSRec", {"train_stage": "transductive_ft"})):
        with tables_by(factory):
            *_, (train, valid, test), trainer = prepared(model, own, {**small, "epochs": 25})
        trainer.fit(train, valid, saved=False)
        assert isinstance(trainer.model.item_embedding, Halves)
        assert trainer.evaluate(test, load_best_model=False)["hit@3"] > 0.8
    assert made == [(25, 16, False)] * 2
    assert isinstance(item_embedding(5, 2), ItemEmbedding)
