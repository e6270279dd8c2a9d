"""Steps of fixed shape: the same losses and gradients as the plain path, nothing that waits for a device, and recording.

There is no GPU in these tests: a fake recorder plays steps back as a graph would, from tensors that stay in their place.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_unisrec.data.ahead import in_thread
from recbole_unisrec.data.fixed import FixedPlan
from recbole_unisrec.errors import UserError
from recbole_unisrec.graphs import WARM_STEPS, GraphedEpochs, may_record
from recbole_unisrec.setting_page import defaults
from recbole_unisrec.setting_table import LossSettings, TrainingSettings
from recbole_unisrec.settings import recipe
from recbole_unisrec.trainer import PackedTrainer
from recbole_unisrec.weight_average import WeightAverage
from tests.test_plugin import VARIANTS, prepared

pytestmark = pytest.mark.hardware

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique_", "is_nonzero", "item", "_assert_async")


class NoWaiting(TorchDispatchMode):
    """Fails where an operation would have to wait for a GPU, or has a size that depends on data."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(WAITS), f"{name} waits for the device"
        if name in ("index", "index_put_", "index_put"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "an index of booleans waits for the device"
        if name == "repeat_interleave":
            assert (kwargs or {}).get("output_size") is not None, "repeat_interleave waits for the device"
        return func(*args, **(kwargs or {}))


class FakeRecorder:
    """Plays back by calling; counts."""

    def __init__(self) -> None:
        self.runs, self.records, self.plays = 0, 0, 0

    def run(self, step: Callable[[], None]) -> None:
        self.runs += 1
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.records += 1

        def play() -> None:
            self.plays += 1
            with NoWaiting():
                step()

        return play


class Refuses(FakeRecorder):
    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.records += 1
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def graphed(trainer: PackedTrainer, train: Any, recorder: Any, said: list[str]) -> GraphedEpochs:
    if trainer.average is not None:
        trainer.average.count_on_device()
    return GraphedEpochs(trainer, FixedPlan(train, "cpu"), recorder, said.append)


def plain_bar(steps: Any) -> Any:
    return steps


def message(step: int) -> str:
    return f"step {step}"


SETTINGS = {"train_batch_size": 40, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "gate_noise": False}
WITHOUT = {"text_path": False}  # its means go by length
COLD = ("SASRecPacked", {"cold_items": 0.25, "history_bias": True})
LONG = ("UniSRec", {"train_stage": "inductive_ft", "MAX_ITEM_LIST_LENGTH": 3, "history_bias": True})


@pytest.mark.parametrize(("model", "own"), [*((model, {**own, **WITHOUT}) for model, own in VARIANTS), COLD, LONG])
def test_losses_and_gradients_equal_those_of_the_plain_path(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    *_, (train, _, _), trainer = prepared(model, own, {**small, **SETTINGS})
    network = trainer.model.double()
    train.set_epoch(0)
    plan = FixedPlan(train, "cpu")
    shapes = plan.epoch(0)
    batches = list(train)
    assert len(shapes) == len(batches) > 2
    for number, (shape, plain) in enumerate(zip(shapes, batches, strict=True)):
        plan.choose(number)
        with NoWaiting():
            batch = plan.batch(shape)
            ours = network.calculate_loss(batch)
        assert len(batch.item) == shape.positions
        assert len(batch.target) == shape.pairs
        assert sorted(batch.target[: len(plain.target)].tolist()) == sorted(plain.target.tolist())
        theirs = network.calculate_loss(plain)
        torch.testing.assert_close(ours, theirs)
        grads = [torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (ours, theirs)]
        for one, other in zip(*grads, strict=True):
            if one is not None or other is not None:
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("model", "own"),
    [("SASRecPacked", {}), ("UniSRec", {"train_stage": "transductive_ft", **recipe("ours"), **WITHOUT})],
)
def test_fifty_steps_give_the_losses_of_the_plain_path(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    losses: dict[str, list[float]] = {}
    averages = []
    for way in ("plain", "graphs"):
        settings = {**small, **SETTINGS, "clip_grad_norm": {"max_norm": 1.0}}
        *_, (train, _, _), trainer = prepared(model, own, settings)
        trainer.model.double()
        trainer.optimizer = trainer._build_optimizer()
        if trainer.average is not None:
            trainer.average = WeightAverage(trainer.model, trainer.average.decay)
        recorder, said = FakeRecorder(), []
        run = graphed(trainer, train, recorder, said) if way == "graphs" else None
        losses[way] = []
        for epoch in range(-(-50 // len(train))):
            if run is None:
                losses[way].append(trainer._train_epoch(train, epoch))
            else:
                trainer.model.train()
                losses[way].append(run.run(epoch, 50, plain_bar, message))
        if trainer.average is not None:
            averages.append(trainer.average.mean)
            assert trainer.average.steps >= 50
        if run is not None:
            shapes = len(run.steps.played)
            assert recorder.records == shapes
            assert recorder.plays > recorder.runs
            assert recorder.runs <= WARM_STEPS * len(run.steps.runs)
            assert not said
    assert losses["graphs"] == pytest.approx(losses["plain"], rel=1e-6)  # summed in float32
    for one, other in zip(*averages, strict=True) if averages else ():
        torch.testing.assert_close(one, other)


def test_without_recording_training_goes_on_and_says_so_once(ring: Path, small: dict[str, Any]) -> None:
    *_, (train, _, _), trainer = prepared("SASRecPacked", {}, {**small, **SETTINGS})
    recorder, said = Refuses(), []
    run = graphed(trainer, train, recorder, said)
    trainer.model.train()
    losses = [run.run(epoch, 50, plain_bar, message) for epoch in range(4)]
    assert losses[-1] < losses[0]
    assert recorder.records == 1
    assert len(said) == 1
    assert "operation not permitted when stream is capturing)" in said[0]
    assert "graphs=off" in said[0]
    assert "\n" not in said[0]


def test_a_loss_that_is_not_finite_is_found_within_fifty_steps(ring: Path, small: dict[str, Any]) -> None:
    *_, (train, _, _), trainer = prepared("SASRecPacked", {}, {**small, **SETTINGS, "train_batch_size": 8})
    run = graphed(trainer, train, FakeRecorder(), [])
    trainer.model.train()
    run.run(0, 50, plain_bar, message)

    def bar(steps: Any) -> Iterator[Any]:
        for number, step in enumerate(steps):
            if number == 7:
                trainer.model.item_embedding.weight.data[3, 0] = float("nan")
            yield step

    with pytest.raises(UserError, match=r"step (\d+)") as error:
        run.run(1, 50, bar, message)
    assert 7 <= int(str(error.value).split()[-1]) <= 7 + 50


@pytest.mark.usefixtures("ring")
def test_trainer_uses_graphs_where_a_gpu_would_be(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = FakeRecorder()
    monkeypatch.setattr(PackedTrainer, "recorder", lambda self: recorder)
    *_, (train, valid, test), trainer = prepared("UniSRec", {"train_stage": "inductive_ft"}, {**small, "epochs": 20})
    monkeypatch.setattr(PackedTrainer, "graphs", True)
    trainer.fit(train, valid, saved=False)
    assert recorder.plays > 0
    assert trainer.evaluate(test, load_best_model=False)["hit@3"] > 0.8


def test_when_steps_may_be_recorded() -> None:
    def allowed(**changes: Any) -> bool:
        settings = {**defaults("UniSRec"), **changes}
        return may_record(LossSettings.from_config(settings), TrainingSettings.from_config(settings))

    assert allowed()
    assert not allowed(graphs="off")
    assert not allowed(loss="sampled")
    assert not allowed(train_mode="prefix")
    with pytest.raises(UserError, match="graphs must be one of auto, off, not 'on'"):
        allowed(graphs="on")


def test_out_of_memory_names_a_batch_size(ring: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    *_, (train, valid, _), trainer = prepared("SASRecPacked", {}, small)

    def full(batch: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.model, "calculate_loss", full)
    with pytest.raises(UserError, match="a step of 128 pairs; try train_batch_size=64"):
        trainer.fit(train, valid, saved=False)


def test_batches_ahead_come_in_order_and_errors_come_through() -> None:
    assert list(in_thread(range(20), lambda n: n + 1, depth=2)) == list(range(1, 21))

    def broken() -> Iterator[int]:
        yield 1
        raise UserError("no more")

    found = in_thread(broken())
    assert next(found) == 1
    with pytest.raises(UserError, match="no more"):
        next(found)
    endless = in_thread(iter(int, 1), depth=1)
    assert next(endless) == 0
    endless.close()  # and the thread ends
