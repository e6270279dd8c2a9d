"""Steps of fixed shape: the same losses and gradients as the plain path, nothing that waits for a device, and recording.

There is no GPU in these tests: a fake recorder plays steps back as a graph would, from tensors that stay in their place.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from recbole_unisrec import graphs
from recbole_unisrec.beyond import Recommended
from recbole_unisrec.data import history_blocks
from recbole_unisrec.data.ahead import in_thread
from recbole_unisrec.data.fixed import FixedPlan, distinct
from recbole_unisrec.data.sequences import PackedBatch, Seen
from recbole_unisrec.errors import UserError
from recbole_unisrec.graphs import WARM_STEPS, GraphedEpochs, may_record
from recbole_unisrec.model import block_ranks, losses, text_path
from recbole_unisrec.model.text_path import TextPath
from recbole_unisrec.registry import MODELS
from recbole_unisrec.setting_page import defaults
from recbole_unisrec.setting_table import TrainingSettings
from recbole_unisrec.trainer import PackedTrainer
from recbole_unisrec.weight_average import WeightAverage
from tests.test_plugin import RECIPE, VARIANTS, prepared

pytestmark = pytest.mark.hardware

WAITS = (
    "_local_scalar_dense",
    "bincount",
    "nonzero",
    "masked_select",
    "_unique",
    "unique_",
    "is_nonzero",
    "item",
    "_assert_async",
)


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
SAMPLED: list[tuple[str, dict[str, Any]]] = [
    ("SASRecPacked", {"loss": "sampled", "negatives": "popularity", "n_negatives": 12}),
    ("SASRecPacked", {"loss": "gbce", "n_negatives": 200, "cold_items": 0.25, "history_bias": True}),
    ("UniSRec", {"train_stage": "inductive_ft", "loss": "sampled", "negatives": "uniform+batch", "n_negatives": 5, "history_bias": True, "text_path": True}),
    ("SASRecText", {"loss": "sampled", "negatives": "batch", "logq": False}),
]  # fmt: skip
COLD = ("SASRecPacked", {"cold_items": 0.25, "history_bias": True})
LONG = ("UniSRec", {"train_stage": "inductive_ft", "MAX_ITEM_LIST_LENGTH": 3, "history_bias": True})


def by_what_they_say(self: TextPath, mean: torch.Tensor) -> torch.Tensor:
    """Which predictions have the text path, by the texts themselves: the same ones in whatever order they come."""
    return (mean[:, :1] * 1e4).floor() % 2 == 0


RECORDED = [v for v in VARIANTS if getattr(MODELS[v[0]].model, "fixed_shapes", True)]


@pytest.mark.parametrize(("model", "own"), [*RECORDED, COLD, LONG, *SAMPLED])
def test_losses_and_gradients_equal_those_of_the_plain_path(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextPath, "draw", by_what_they_say)
    monkeypatch.setattr(TextPath, "bound", lambda self, encoder: math.inf)  # as on a GPU, where nobody looks
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
        assert sorted(ids(batch)[: len(plain.target)].tolist()) == sorted(ids(plain).tolist())
        theirs = network.calculate_loss(plain)
        torch.testing.assert_close(ours, theirs)
        grads = [torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (ours, theirs)]
        for one, other in zip(*grads, strict=True):
            if one is not None or other is not None:
                torch.testing.assert_close(one, other)


def test_the_shape_of_an_epoch_does_not_depend_on_those_before(ring: Path, small: dict[str, Any]) -> None:
    *_, (train, _, _), _ = prepared("SASRecPacked", {"loss": "sampled", "n_negatives": 3}, {**small, **SETTINGS})
    plan = FixedPlan(train, "cpu")
    shapes = [set(plan.epoch(epoch)) for epoch in range(6)]
    assert all(len(of_epoch) == 1 for of_epoch in shapes)
    for epoch in (5, 2):
        assert set(FixedPlan(train, "cpu").epoch(epoch)) == shapes[epoch]


def ids(batch: PackedBatch) -> torch.Tensor:
    """Next items by id, in a batch whose items may be numbers of rows."""
    return batch.target if batch.rows is None else batch.rows[batch.target]


def test_distinct_numbers_in_a_fixed_shape() -> None:
    rows, place, count = distinct(torch.tensor([7, 0, 3, 7, 9, 3]), 6)
    assert rows.tolist() == [0, 3, 7, 9, 0, 0]
    assert place.tolist() == [2, 0, 1, 2, 3, 1]
    assert count.tolist() == [1, 2, 2, 1, 0, 0]


def test_half_of_the_predictions_are_made_without_the_texts(ring: Path, small: dict[str, Any]) -> None:
    *_, trainer = prepared("UniSRec", {"train_stage": "inductive_ft", "text_path": True}, small)
    path = trainer.model.text_path
    assert path.alone == 0.5
    drawn = [path.draw(torch.zeros(1000, 3)) for _ in range(2)]
    assert drawn[0].shape == (1000, 1)
    assert 400 < drawn[0].sum() < 600
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize(
    ("model", "own"),
    [("SASRecPacked", {}), ("UniSRec", {"train_stage": "transductive_ft", **RECIPE}), *SAMPLED],
)
def test_fifty_steps_give_the_losses_of_the_plain_path(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextPath, "draw", by_what_they_say)
    monkeypatch.setattr(TextPath, "bound", lambda self, encoder: math.inf)  # as on a GPU, where nobody looks
    losses: dict[str, list[float]] = {}
    averages: list[list[torch.Tensor]] = []
    weights: list[list[torch.Tensor]] = []
    for way in ("plain", "graphs"):
        settings = {**small, **SETTINGS, "clip_grad_norm": {"max_norm": 1.0}}
        *_, (train, _, _), trainer = prepared(model, own, settings)
        trainer.model.double()
        trainer.optimizer = trainer._build_optimizer()
        weights.append(list(trainer.model.parameters()))
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
    for one, other in [*zip(*averages, strict=True), *zip(*weights, strict=True)]:
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)  # Adam moves a weight by some .05 in 50 steps


@pytest.mark.parametrize(
    ("model", "own"),
    [("UniSRec", {"train_stage": "transductive_ft", "history_bias": True, "text_path": True}), *SAMPLED[:2], COLD],
)
def test_compiled_steps_have_the_losses_and_gradients_of_the_others(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "BACKEND", "aot_eager")  # traced, without a compiler for the processor
    monkeypatch.setattr(TextPath, "draw", by_what_they_say)
    monkeypatch.setattr(text_path, "may_look", lambda x: False)
    monkeypatch.setattr(losses, "may_look", lambda x: False)
    found = []
    for way in ("auto", "compiled"):
        *_, (train, _, _), trainer = prepared(model, own, {**small, **SETTINGS, "graphs": way})
        network = trainer.model.double()
        said: list[str] = []
        run = graphed(trainer, train, FakeRecorder(), said)
        (shape, *_) = run.plan.epoch(0)
        run.plan.choose(0)
        network.train().zero_grad()
        run.loss(shape).backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
        assert not said
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-12)


def test_without_compiling_training_goes_on_and_says_so_once(
    ring: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler is installed\nmore lines")

    monkeypatch.setattr(graphs, "BACKEND", broken)
    *_, (train, _, _), trainer = prepared("SASRecPacked", {}, {**small, **SETTINGS, "graphs": "compiled"})
    said: list[str] = []
    run = graphed(trainer, train, FakeRecorder(), said)
    trainer.model.train()
    epochs = [run.run(epoch, 50, plain_bar, message) for epoch in range(4)]
    assert epochs[-1] < epochs[0]
    assert len(said) == 1
    assert "no compiler is installed" in said[0]
    assert "graphs=auto" in said[0]
    assert "\n" not in said[0]


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


RANKED: list[tuple[str, dict[str, Any]]] = [
    ("SASRecPacked", {}),
    ("UniSRec", {"train_stage": "inductive_ft", "history_bias": True, "text_path": True}),
    ("SASRecPath", {"mask_history": True}),
]


@pytest.mark.parametrize(("model", "own"), RANKED)
@pytest.mark.parametrize("many", [False, True])
def test_evaluation_does_not_wait_for_a_gpu(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any], many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, (_, _, test), trainer = prepared(model, own, small)
    with torch.no_grad():  # ties
        for weights in trainer.model.parameters():
            weights.copy_((weights * 20).round() / 20)
    pairs = test._dataset.pairs
    expected, counted = trainer.ranks(pairs), Recommended(trainer.model.n_items, [3, 5])
    trainer.ranks(pairs, recommended=counted)
    monkeypatch.setattr("recbole_unisrec.trainer.EVAL_ROOM", 60)
    for module in (losses, block_ranks, history_blocks):
        monkeypatch.setattr(module, "may_look", lambda x: False)
    if many:
        monkeypatch.setattr(losses, "MANY_ITEMS", 2)
        monkeypatch.setattr(block_ranks, "SCORES_PER_BLOCK", 20 * 5)
    plain, blocks, of_rows = trainer._rank_block, [], Seen.of_rows

    def on_the_host(self: Seen, first: int, last: int) -> slice:
        with _disable_current_modes():  # offsets lie there
            return of_rows(self, first, last)

    monkeypatch.setattr(Seen, "of_rows", on_the_host)

    def rank_block(*args: Any) -> None:
        blocks.append(len(args[0].index))
        with NoWaiting():
            plain(*args)

    monkeypatch.setattr(trainer, "_rank_block", rank_block)
    assert trainer.ranks(pairs).equal(expected)
    again = Recommended(trainer.model.n_items, [3, 5])
    trainer.ranks(pairs, recommended=again)
    assert again.counts.equal(counted.counts)
    assert sum(blocks) == 2 * len(pairs)
    assert len(blocks) > 4


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
        return may_record(TrainingSettings.from_config(settings))

    assert allowed()
    assert not allowed(graphs="off")
    assert allowed(loss="sampled")
    assert not allowed(train_mode="prefix")
    with pytest.raises(UserError, match="graphs must be one of auto, compiled, off, not 'on'"):
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
