"""Models trained by a loss over a sample of the items, end to end."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_unisrec import quick_start
from recbole_unisrec.data.negatives import Drawn, localise
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.losses import softmax_cross_entropy
from tests.test_plugin import prepared

pytestmark = pytest.mark.hardware

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("UniSRec", {"train_stage": "inductive_ft"}),
    ("UniSRec", {"train_stage": "transductive_ft", "mask_unseen_ids": True, "history_bias": True}),
    ("SASRecPacked", {"item_optimizer": "rows"}),
    ("SASRecPacked", {"history_bias": True, "clip_grad_norm": {"max_norm": 5.0}}),
    ("SASRecText", {}),
    ("ZESRec", {}),
]
BATCH, POPULAR = {"loss": "sampled", "negatives": "uniform+batch"}, {"loss": "sampled", "negatives": "popularity"}
GBCE = {"loss": "gbce"}
WAYS = [*((model, own, BATCH) for model, own in MODELS), (*MODELS[0], GBCE), (*MODELS[2], GBCE), (*MODELS[3], POPULAR)]


@pytest.mark.parametrize(("model", "own", "way"), WAYS)
def test_learns_the_planted_pattern(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any], way: dict[str, Any]
) -> None:
    settings = {**small, **way, "n_negatives": 12, "epochs": 25, "stopping_step": 1000, "learning_rate": 0.02}
    *_, (train, valid, test), trainer = prepared(model, own, settings)
    trainer.fit(train, valid, saved=False)
    assert trainer.evaluate(test, load_best_model=False)["hit@3"] > 0.8  # three of 24 items at random: 0.125


@pytest.mark.parametrize(("model", "own"), MODELS[:5])
def test_with_every_item_drawn_once_the_loss_is_that_over_all(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    *_, (train, _, _), trainer = prepared(model, own, {**small, "loss": "sampled"})
    network = trainer.model.double().eval()
    batch = next(iter(train))
    assert batch.rows is not None
    whole = {name: batch.rows[getattr(batch, name)] for name in ("item", "target")}
    plain = type(batch)(whole["item"], batch.position, batch.buckets, batch.output, whole["target"])
    everything = torch.arange(1, network.n_items)
    ours = network.calculate_loss(localise(plain, Drawn(everything, torch.zeros(len(everything)))))
    table = network.item_table(torch.arange(network.n_items))
    seen = network.histories(plain)
    if seen is not None:
        seen = type(seen)(seen.row, seen.item - 1, seen.distance, seen.offsets)
    full = softmax_cross_entropy(
        network.packed_outputs(plain, table), network.scaled(table)[1:], plain.target - 1, 1 / network.temperature,
        seen=seen, bias=None if seen is None else network.seen_bias(seen),
    )  # fmt: skip
    torch.testing.assert_close(ours, full)
    grads = [torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (ours, full)]
    for one, other in zip(*grads, strict=True):
        if one is not None or other is not None:
            dense = [g.to_dense() if g.is_sparse else g for g in (one, other)]
            torch.testing.assert_close(*dense)


def test_only_rows_of_the_step_have_gradients(ring: Path, small: dict[str, Any]) -> None:
    settings = {**small, "loss": "sampled", "n_negatives": 3, "train_batch_size": 8, "item_optimizer": "rows"}
    *_, (train, _, _), trainer = prepared("SASRecPacked", {}, settings)
    batch = next(iter(train))
    trainer.model.calculate_loss(batch).backward()
    gradient = trainer.model.item_embedding.weight.grad
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) <= set(batch.rows.tolist())
    assert len(batch.rows) < trainer.model.n_items


def test_items_held_out_take_no_part(ring: Path, small: dict[str, Any]) -> None:
    settings = {**small, "loss": "sampled", "n_negatives": 200, "cold_items": 0.25}
    _, dataset, (train, _, _), _ = prepared("SASRecPacked", {}, settings)
    for batch in train:
        assert not dataset.cold[batch.rows].any()


def test_negatives_follow_from_seed_epoch_and_step(ring: Path, small: dict[str, Any]) -> None:
    settings = {**small, "loss": "sampled", "n_negatives": 3}
    *_, (train, _, _), _ = prepared("SASRecPacked", {}, settings)
    epochs = []
    for epoch in (0, 0, 1):
        train.set_epoch(epoch)
        epochs.append([batch.rows[batch.drawn.item].tolist() for batch in train])
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    assert epochs[0][0] != epochs[0][1]


def test_command_trains_and_saves(ring: Path, small: dict[str, Any]) -> None:
    from recbole_unisrec.settings import build_config

    config = build_config("UniSRec", "ring", [], {**small, "epochs": 2, "loss": "gbce", "item_optimizer": "rows"})
    result = quick_start.train(config)
    assert Path(result.checkpoint).is_file()
    assert result.config["loss"] == "gbce"


def test_settings_that_do_not_go_together(ring: Path, small: dict[str, Any]) -> None:
    for own, sentence in (
        ({"loss": "sampled", "train_mode": "prefix"}, "goes with train_mode packed"),
        ({"item_optimizer": "rows"}, "goes with loss=sampled"),
    ):
        with pytest.raises(UserError, match=sentence):
            prepared("SASRecPacked", own, small)
    with pytest.raises(UserError, match="ZESRec's penalty"):
        prepared("ZESRec", {"item_optimizer": "rows", "loss": "sampled"}, small)
