"""What a catalogue of millions needs: features that stay in their file, ranks in blocks, some users for validation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_unisrec.beyond import Recommended
from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.data.sequences import seen_of_padded
from recbole_unisrec.errors import UserError
from recbole_unisrec.model import base, losses
from recbole_unisrec.model import block_ranks as module
from recbole_unisrec.model.block_ranks import block_ranks
from recbole_unisrec.model.losses import target_ranks
from tests.test_plugin import prepared

pytestmark = pytest.mark.hardware


@pytest.mark.parametrize("per_block", [7, 40, 10**6])
@pytest.mark.parametrize("with_bias", [False, True])
def test_ranks_in_blocks_equal_those_of_whole_rows(
    per_block: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES_PER_BLOCK", per_block)
    torch.manual_seed(0)
    hidden, table = torch.randn(13, 8), torch.randn(60, 8)
    table[20:30] = table[30:40]  # ties
    target = torch.randint(1, 60, (13,))
    target[:4] = torch.tensor([25, 35, 1, 59])
    seen = bias = None
    if with_bias:
        seen = seen_of_padded(torch.randint(1, 60, (13, 5)), torch.randint(1, 6, (13,)))
        bias = torch.randn(5)[seen.distance]
    expected = target_ranks(hidden, table, target, seen, bias)
    assert block_ranks(hidden, table, target, seen, bias).tolist() == expected.tolist()


def test_nan_never_ranks_well() -> None:
    hidden, table = torch.tensor([[1.0], [torch.nan]]), torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert block_ranks(hidden, table, torch.tensor([3, 3])).tolist() == [1, 4]
    table[1] = torch.nan
    assert block_ranks(hidden[:1], table, torch.tensor([3])).tolist() == [2]


def test_rows_of_a_file_are_those_of_the_table(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float16)
    values.tofile(tmp_path / "features")
    source = np.memmap(tmp_path / "features", dtype=np.float16, mode="r", shape=(6, 3))
    rows = np.array([0, 5, 0, 3])
    features = MappedFeatures(source, rows)
    table = torch.cat([torch.zeros(1, 3), torch.from_numpy(values[rows[1:]]).float()])
    for items in (torch.tensor([[3, 0], [1, 1]]), torch.tensor([2])):
        torch.testing.assert_close(features[items], table[items])
    torch.testing.assert_close(features[1:], table[1:])
    assert features.shape == (4, 3)
    torch.testing.assert_close(features.beside([features])[1:], torch.cat([table, table], dim=1)[1:])
    assert len(features.sample(torch.tensor([True, True, False, True]), 5)) == 2


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("UniSRec", {"train_stage": "inductive_ft"}),
        ("UniSRec", {"train_stage": "transductive_ft", "feature_scaling": "whiten", "cold_items": 0.2}),
        ("SASRecText", {}),
    ],
)
def test_training_from_the_file_is_training_from_memory(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    results = []
    for where in ("device", "disk"):
        settings = {**small, "loss": "sampled", "n_negatives": 8, "epochs": 3, "features_on": where}
        *_, (train, valid, test), trainer = prepared(model, own, settings)
        assert isinstance(trainer.model.features, MappedFeatures) == (where == "disk")
        trainer.fit(train, valid, saved=False)
        results.append((trainer.train_loss_dict, trainer.evaluate(test, load_best_model=False)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], abs=0.05)


def test_some_users_are_validated(ring: Path, small: dict[str, Any]) -> None:
    _, _, (train, valid, test), trainer = prepared("SASRecPacked", {}, {**small, "eval_users": 20, "epochs": 1})
    assert len(test._dataset.pairs) == 20
    assert set(valid._dataset.pairs.user.tolist()) <= set(test._dataset.pairs.user.tolist())
    _, _, (everyone, _, whole), _ = prepared("SASRecPacked", {}, small)
    assert len(train._dataset) == len(everyone._dataset)
    assert set(test._dataset.pairs.user.tolist()) < set(whole._dataset.pairs.user.tolist())
    trainer.fit(train, valid, saved=False)


def test_what_does_not_go_together(ring: Path, small: dict[str, Any]) -> None:
    for own, sentence in (
        ({"features_on": "disk"}, "needs all text features at every step"),
        ({"features_on": "disk", "loss": "gbce", "feature_precision": "bf16"}, "takes the file as it is"),
    ):
        with pytest.raises(UserError, match=sentence):
            prepared("UniSRec", {"train_stage": "inductive_ft", **own}, small)


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("SASRecPacked", {}),
        ("UniSRec", {"train_stage": "inductive_ft"}),
        ("UniSRec", {"train_stage": "transductive_ft", "feature_scaling": "whiten", "text_path": True, "history_bias": True}),
    ],
)  # fmt: skip
def test_ranks_of_millions_are_those_of_few(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, (_, valid, _), trainer = prepared(model, own, small)
    few = trainer.ranks(valid._dataset.pairs)
    for place in (losses, base):
        monkeypatch.setattr(place, "MANY_ITEMS", 2)
    monkeypatch.setattr(base, "TABLE_ROWS", 7)
    monkeypatch.setattr(module, "SCORES_PER_BLOCK", 60)
    trainer.model.train()  # forgets the table
    largest = 0

    def watched(self: Any, table: torch.Tensor, rows: torch.Tensor | slice | None = None) -> torch.Tensor:
        nonlocal largest
        vectors = original(self, table, rows)
        assert rows is not None
        largest = max(largest, len(vectors) if isinstance(rows, slice) else 0)
        return vectors

    original = base.TableRecommender.candidate_vectors
    monkeypatch.setattr(base.TableRecommender, "candidate_vectors", watched)
    assert trainer.ranks(valid._dataset.pairs).tolist() == few.tolist()
    assert 0 < largest < trainer.model.n_items  # never whole: the table is there once
    counted = Recommended(trainer.model.n_items, [3])
    assert trainer.ranks(valid._dataset.pairs, recommended=counted).tolist() == few.tolist()
    assert int(counted.counts.sum()) == 3 * len(few)
