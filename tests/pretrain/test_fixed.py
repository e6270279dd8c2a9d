"""Pre-training in fixed shapes: the losses, gradients and weights of the plain path, without waiting for a device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset

from recbole_unisrec.distributed import World
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.contrast import contrast
from recbole_unisrec.pretrain.fixed import FixedBatches
from recbole_unisrec.pretrain.model import UniSRecPretrain
from recbole_unisrec.pretrain.run import MODEL, make_loader, pretrain
from recbole_unisrec.pretrain.trainer import UniSRecPretrainTrainer
from recbole_unisrec.settings import build_config
from tests.test_graphs import FakeRecorder, NoWaiting

pytestmark = pytest.mark.hardware

STILL = {
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "gate_noise": False,
    "features_on": "device", "train_batch_size": 64,
}  # fmt: skip


def setting_up(settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Loader, model and trainer in float64."""
    config = build_config(MODEL, "ab", [], settings)
    torch.manual_seed(0)
    dataset = create_dataset(config)
    model = UniSRecPretrain(config, dataset).double()
    model.use_table(dataset.features.on(torch.device("cpu")).double())
    trainer = UniSRecPretrainTrainer(config, model)
    return make_loader(config, dataset, World()), model, trainer


@pytest.mark.parametrize("pairs", ["random", "segments"])
@pytest.mark.parametrize("masking", ["exclude", "authors"])
def test_losses_and_gradients_equal_those_of_the_plain_path(
    mixture: Path, tiny: dict[str, Any], pairs: str, masking: str
) -> None:
    own = {"pretrain_pairs": pairs, "contrastive_masking": masking, "item_drop_ratio": 0.5}
    loader, model, _ = setting_up({**tiny, **STILL, **own})
    loader.start_at(0)
    batches = list(loader)
    loader.start_at(0)
    fixed = list(FixedBatches(loader))
    assert len(fixed) == len(batches) > 4
    steps = range(len(loader))
    assert len({loader.augmentation.drops_items(0, step) for step in steps}) == 2  # items in some, words in others
    for ours, plain in zip(fixed, batches, strict=True):
        assert len(ours) == len(plain) <= len(ours.ids) == ours.shape.pairs
        assert len(ours.plain.item) == len(ours.view.item) == ours.shape.positions
        with NoWaiting():
            found = model.task_losses(ours)
        expected = model.task_losses(plain)
        torch.testing.assert_close(found, expected)
        parameters = list(model.parameters())
        for one, other in zip(found, expected, strict=True):
            grads = [
                torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
                for loss in (one, other)
            ]
            torch.testing.assert_close(*grads)


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_fifty_steps_give_the_losses_and_weights_of_the_plain_path(
    mixture: Path, tiny: dict[str, Any], pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}
    recorder = FakeRecorder()
    monkeypatch.setattr(UniSRecPretrainTrainer, "recorder", lambda self: recorder)
    for way in ("plain", "graphs"):
        settings = {**tiny, **STILL, "pretrain_pairs": pairs, "clip_grad_norm": {"max_norm": 1.0}, "valid_every": 0}
        loader, model, trainer = setting_up({**settings, "checkpoint_dir": way})
        monkeypatch.setattr(UniSRecPretrainTrainer, "graphs", way == "graphs")
        trainer.loader, trainer.dataset = loader, loader.dataset
        losses = []
        for epoch in range(-(-50 // len(loader))):
            trainer.step = 0
            record = trainer._epoch(epoch, show_progress=False, saved=False)
            losses += [record["seq_item"], record["seq_seq"]]
            trainer.sums = [0.0, 0.0]
        found[way] = (torch.tensor(losses, dtype=torch.float64), [p.detach() for p in model.parameters()])
    torch.testing.assert_close(found["graphs"], found["plain"], rtol=1e-6, atol=1e-8)
    assert recorder.plays > 0


def test_a_run_uses_recorded_steps_where_a_gpu_would_be(
    mixture: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = FakeRecorder()
    monkeypatch.setattr(UniSRecPretrainTrainer, "recorder", lambda self: recorder)
    monkeypatch.setattr(UniSRecPretrainTrainer, "graphs", True)
    settings = {**tiny, "features_on": "device", "pretrain_pairs": "segments", "epochs": 12, "save_step": 5}
    result = pretrain(build_config(MODEL, "ab", [], settings))
    assert recorder.plays > 0
    assert result.best is not None
    assert result.best["valid"]["mean"]["ndcg@10"] > 0.5


@pytest.mark.parametrize("temperature", [0.07, 0.001])
@pytest.mark.parametrize("masking", ["exclude", "authors"])
def test_pairs_that_fill_up_count_for_nothing(masking: str, temperature: float) -> None:
    torch.manual_seed(0)
    query, key = (torch.nn.functional.normalize(torch.randn(9, 4).double()).requires_grad_() for _ in range(2))
    ids, owner = torch.tensor([1, 2, 1, 3, 2, 4, 0, 0, 0]), torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 0])
    there = ids > 0
    ours = contrast(query, key, ids, temperature, masking, owner, there=there)
    plain = contrast(query[:6], key[:6], ids[:6], temperature, masking, owner[:6])
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, (query, key)), torch.autograd.grad(plain, (query, key)))


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_few_shapes_occur(mixture: Path, tiny: dict[str, Any], pairs: str) -> None:
    loader, _, _ = setting_up({**tiny, **STILL, "train_batch_size": 250, "pretrain_pairs": pairs})
    fixed = FixedBatches(loader)
    loader.start_at(0)
    draws = list(loader.draws())
    assert fixed.positions * len(loader) == sum(len(draw.plain.items) for draw in draws)
    assert fixed.pairs * len(loader) == sum(len(draw.ids) for draw in draws)
    shapes = [batch.shape for epoch in range(5) for batch in _epoch(loader, epoch)]
    assert len(set(shapes)) <= 6 < len(shapes)


def _epoch(loader: Any, epoch: int) -> list[Any]:
    loader.start_at(epoch)
    return list(FixedBatches(loader))


def test_out_of_memory_names_a_batch_size(mixture: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: UniSRecPretrain, batch: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(UniSRecPretrain, "task_losses", full)
    with pytest.raises(UserError, match="a step of 128 pairs; try train_batch_size=64"):
        pretrain(build_config(MODEL, "ab", [], tiny))
