"""Pre-training as a user runs it: learning, killing and resuming, torn checkpoints, NaN, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from safetensors.torch import load_file

from recbole_unisrec import checkpoint as store
from recbole_unisrec.distributed import World
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain import trainer as trainer_module
from recbole_unisrec.pretrain.batch import PretrainBatch, make_batch
from recbole_unisrec.pretrain.gates import plot_gates
from recbole_unisrec.pretrain.model import UniSRecPretrain
from recbole_unisrec.pretrain.run import MODEL, PretrainResult, make_loader, pretrain
from recbole_unisrec.pretrain.trainer import UniSRecPretrainTrainer
from recbole_unisrec.pretrain.views import Rows, cut_rows, draws, item_drop, mix_seed, word_drop
from recbole_unisrec.pretrained import load_pretrained
from recbole_unisrec.run_state import locked
from recbole_unisrec.settings import build_config
from recbole_unisrec.transfer import apply_pretrained

pytestmark = pytest.mark.hardware

ROOT = Path(__file__).resolve().parents[2]


def run(settings: dict[str, Any], resume: bool = False) -> PretrainResult:
    return pretrain(build_config(MODEL, "ab", [], settings), resume)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(store.list_checkpoints(folder)[0] / store.MODEL)
    return {name: tensor.clone() for name, tensor in found.items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def command(settings: dict[str, Any], *more: str) -> list[str]:
    given = [f"--{name}={value}" for name, value in settings.items()]
    script = str(ROOT / "run_unisrec.py")
    return [script, "--model", "UniSRec", "--dataset", "ab", "--train_stage", "pretrain", *given, *more]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take more than half of the time of so small a run; one test has them."""
    monkeypatch.setattr(trainer_module, "plot_gates", lambda *_: None)


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_learns_the_ring_and_writes_what_it_says(
    mixture: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pairs: str
) -> None:
    tiny["pretrain_pairs"] = pairs
    if pairs == "random":
        monkeypatch.setattr(trainer_module, "plot_gates", plot_gates)
    result = run({**tiny, "epochs": 12, "save_step": 5, "keep_checkpoints": 2, "stopping_step": 0})
    losses = [r["loss"] for r in result.history]
    assert losses[-1] < 0.7 * losses[0]
    assert result.best is not None
    assert result.best["valid"]["mean"]["ndcg@10"] > 0.5
    assert set(result.best["valid"]) == {"a", "b", "mean"}
    for record in result.history:
        assert record["loss"] == pytest.approx(record["seq_item"] + 1e-3 * record["seq_seq"])
        assert all(sum(row) == pytest.approx(1) for row in record["gate_share"])
    steps = [int(p.name.removeprefix("step-")) for p in store.list_checkpoints(result.folder)]
    assert len(steps) == 2
    assert steps[0] == steps[1] * 12 // 10
    if pairs == "random":
        assert (result.folder / "gates.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((result.folder / "history.json").read_text()) == result.history
    printed = capsys.readouterr().out
    assert "seq-item" in printed
    state, meta = load_pretrained(result.folder)
    assert meta["domains"] == ["a", "b"]
    assert meta["encoder"] == "random CLS, max_length 512"
    assert_equal(state, load_file(result.folder / "best" / store.MODEL))
    with pytest.raises(UserError, match="--resume"):
        run(tiny)


DETERMINING = {
    "train_batch_size": 64, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "adaptor_dropout_prob": 0.1,
    "gate_noise": False, "feature_scaling": "whiten", "learning_rate": 0.02, "weight_decay": 0.1, "precision": "bf16",
    "clip_grad_norm": {"max_norm": 1.0}, "valid_every": 3, "valid_users": 3, "temperature": 0.1, "seed": 1,
    "contrastive_masking": "authors", "pretrain_pairs": "segments", "MAX_ITEM_LIST_LENGTH": 7, "n_exps": 4,
}  # fmt: skip


def test_settings_that_determine_the_result_stay_as_they_are(mixture: Path, tiny: dict[str, Any]) -> None:
    run({**tiny, "epochs": 1})
    folder = Path("saved") / "UniSRec-ab"
    before = {path: path.read_bytes() for path in folder.glob("step-*/*")}
    for name, value in DETERMINING.items():
        with pytest.raises(UserError, match=rf"was made with {name} .*, now it is .*; resume with the same settings"):
            run({**tiny, name: value}, resume=True)
    assert {path: path.read_bytes() for path in folder.glob("step-*/*")} == before
    free = {"epochs": 2, "keep_checkpoints": 1, "save_batches": 2, "rows_at_a_time": 50, "features_on": "device"}
    assert len(run({**tiny, **free}, resume=True).history) == 2


def test_a_finished_run_is_not_trained_on(
    mixture: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    early = {**tiny, "epochs": 9, "stopping_step": 1, "learning_rate": 1e-12}
    first = run(early)
    assert len(first.history) == 2
    before = {path: path.read_bytes() for path in first.folder.glob("step-*/*")}
    assert len(run(early, resume=True).history) == 2
    assert "is finished: it stopped early after epoch 1; nothing is trained" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in first.folder.glob("step-*/*")} == before
    assert len(run({**early, "epochs": 2, "stopping_step": 5}, resume=True).history) == 2
    assert "is finished: all 2 epochs are trained (more epochs would go on)" in capsys.readouterr().out
    assert len(run({**early, "stopping_step": 2}, resume=True).history) == 3


def test_two_runs_do_not_share_a_folder(mixture: Path, tiny: dict[str, Any]) -> None:
    with locked(Path("saved") / "UniSRec-ab"):
        with pytest.raises(UserError, match=r"another process is training in saved/UniSRec-ab; wait .* checkpoint_dir"):
            run(tiny)
        assert not list(Path("saved").glob("*/step-*"))
    assert len(run(tiny).history) == tiny["epochs"]


def test_resumes_after_kill_at_any_moment(mixture: Path, tiny: dict[str, Any]) -> None:
    settings = {**tiny, "epochs": 6, "save_batches": 2, "valid_every": 2, "checkpoint_dir": "whole"}
    run(settings)
    expected = weights(Path("whole") / "UniSRec-ab")
    folder = Path("killed") / "UniSRec-ab"
    settings["checkpoint_dir"] = "killed"
    process = subprocess.Popen([sys.executable, *command(settings)], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while process.poll() is None and len(store.list_checkpoints(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    assert store.list_checkpoints(folder)
    killed_at = store.latest_checkpoint(folder)
    assert killed_at is not None
    assert killed_at[3].progress["epoch"] < 6
    run(settings, resume=True)
    assert_equal(weights(folder), expected)
    whole = json.loads((Path("whole") / "UniSRec-ab" / "history.json").read_text())
    again = json.loads((folder / "history.json").read_text())
    assert [r["loss"] for r in whole] == [r["loss"] for r in again]


def test_a_torn_checkpoint_gives_way_to_the_one_before(
    mixture: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny)
    folder = Path("saved") / "UniSRec-ab"
    expected = weights(folder)
    newest = store.list_checkpoints(folder)[0]
    content = bytearray((newest / store.MODEL).read_bytes())
    content[-3] ^= 1  # same size, another value
    (newest / store.MODEL).write_bytes(content)
    run(tiny, resume=True)
    printed = capsys.readouterr().out
    assert f"torn checkpoint passed over: {newest / store.MODEL}" in printed
    assert "resumed from" in printed
    assert_equal(weights(folder), expected)
    for path in store.list_checkpoints(folder):
        (path / store.OPTIMIZER).unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used"):
        run(tiny, resume=True)


def test_a_torn_run_still_gives_its_newest_sound_weights(mixture: Path, tiny: dict[str, Any]) -> None:
    run(tiny)
    folder = Path("saved") / "UniSRec-ab"
    sound = store.list_checkpoints(folder)[1]
    for torn in (folder / store.BEST, store.list_checkpoints(folder)[0]):
        (torn / store.MODEL).write_bytes((torn / store.MODEL).read_bytes()[:-40])
    state, meta = load_pretrained(folder)
    assert_equal(state, load_file(sound / store.MODEL))
    assert len(meta["passed"]) == 2
    again = UniSRecPretrain(build_config(MODEL, "ab", [], tiny), create_dataset(build_config(MODEL, "ab", [], tiny)))
    assert "torn checkpoint passed over" in str(apply_pretrained(again, str(folder)))


def test_half_written_checkpoints_are_not_seen(mixture: Path, tiny: dict[str, Any]) -> None:
    run({**tiny, "epochs": 1})
    folder = Path("saved") / "UniSRec-ab"
    newest = store.list_checkpoints(folder)[0]
    half = folder / f".{newest.name}.abc.tmp"
    shutil.copytree(newest, half)
    (half / store.PROGRESS).unlink()
    replaced = folder / f".{newest.name}.old.tmp"
    newest.rename(replaced)  # killed between the two renames of a replacement
    assert store.latest_checkpoint(folder) is None
    (folder / ".gates.png.abc.tmp").touch()
    store.clean(folder)
    assert not list(folder.glob(".*.tmp"))
    assert store.latest_checkpoint(folder) is not None
    assert not half.exists()


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    mixture: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run({**tiny, "epochs": 1})
    folder = Path("saved") / "UniSRec-ab"
    good = weights(folder)
    original = UniSRecPretrain.task_losses
    calls = []

    def spoilt(self: Any, batch: Any) -> Any:
        calls.append(1)
        seq_item, seq_seq = original(self, batch)
        return (seq_item * float("nan") if len(calls) == 3 else seq_item), seq_seq

    monkeypatch.setattr(UniSRecPretrain, "task_losses", spoilt)
    with pytest.raises(
        UserError, match=r"not finite at step 2 of epoch 1; the last good checkpoint is .*step-.*start in another"
    ):
        run(tiny, resume=True)
    assert_equal(weights(folder), good)


def test_spoilt_weights_are_not_saved(mixture: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run({**tiny, "epochs": 1})
    folder = Path("saved") / "UniSRec-ab"
    good = weights(folder)

    def spoilt(self: Any, epoch: int, *_: Any) -> None:
        self.model.LayerNorm.bias.data.fill_(float("inf"))  # the loss was still finite

    monkeypatch.setattr(UniSRecPretrainTrainer, "_gates", spoilt)
    with pytest.raises(UserError, match=r"LayerNorm.bias is not finite after the last step of epoch 1; the last good"):
        run(tiny, resume=True)
    assert_equal(weights(folder), good)


EXACT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "gate_noise": False}


def loss_and_gradients(model: UniSRecPretrain, batch: PretrainBatch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    seq_item, seq_seq = model.task_losses(batch)
    (seq_item + seq_seq).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "seq_item": seq_item.detach(), "seq_seq": seq_seq.detach()}


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_parts_of_a_batch_equal_the_whole(mixture: Path, tiny: dict[str, Any], pairs: str) -> None:
    found = []
    for at_a_time in (0, 7):
        config = build_config(MODEL, "ab", [], {**tiny, **EXACT, "rows_at_a_time": at_a_time, "pretrain_pairs": pairs})
        dataset = create_dataset(config)
        torch.manual_seed(0)
        model = UniSRecPretrain(config, dataset)
        batch = next(iter(make_loader(config, dataset, World())))
        rows = len(batch.ids) if batch.owner is None else int(batch.owner.max()) + 1
        assert len(batch.plain) == (1 if at_a_time == 0 else -(-rows // 7))
        found.append(loss_and_gradients(model, batch))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("drops_items", [1, 0])
def test_segments_equal_their_pairs_one_by_one(mixture: Path, tiny: dict[str, Any], drops_items: int) -> None:
    settings = {**tiny, **EXACT, "item_drop_coefficient": drops_items, "pretrain_pairs": "segments"}
    config = build_config(MODEL, "ab", [], settings)
    dataset = create_dataset(config)
    model = UniSRecPretrain(config, dataset).double()
    batches = make_loader(config, dataset, World())
    batch = next(iter(batches))
    order = batches.order(0)[: int(batch.owner.max()) + 1]
    start, stop, first = batches.rows.bounds(order)
    assert (first == 1).any()
    # every prefix is written out and encoded by itself, with the draws of its segment
    segments = cut_rows(dataset.items, start, stop, first)
    uniform = draws(segments, torch.arange(len(order)), mix_seed(2020, 0, 2))
    histories, drawn, target = [], [], []
    for begin, row_start, row_stop, least in zip(segments.start.tolist(), start, stop, first, strict=True):
        for n in range(least, row_stop - row_start + 1):
            histories.append(torch.from_numpy(dataset.items[row_start : row_start + n].astype(np.int64) + 1))
            drawn.append(uniform[begin : begin + n])
            target.append(int(dataset.items[row_start + n]) + 1)
    length = torch.tensor([len(h) for h in histories])
    plain = Rows(torch.cat(histories), length, length.cumsum(0) - 1)
    if drops_items:
        view = item_drop(plain, torch.cat(drawn), 0.2)
        assert (view.length < length).any()
    else:
        view = word_drop(plain, torch.cat(drawn), 0.2, dataset.features.n_items)
        assert (view.items >= dataset.features.n_items).any()
    n_ids = 2 * dataset.features.n_items
    one_by_one = make_batch(plain, view, torch.tensor(target), dataset.features, n_ids, owner=batch.owner)
    assert sum(len(part.item) for part in one_by_one.plain) > 2 * sum(len(part.item) for part in batch.plain)
    found = loss_and_gradients(model, batch)
    for name, expected in loss_and_gradients(model, one_by_one).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_early_stopping(mixture: Path, tiny: dict[str, Any]) -> None:
    result = run({**tiny, "learning_rate": 1e-12, "epochs": 9, "stopping_step": 2})
    assert len(result.history) == 3  # the first is the best, two after it are no better


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrastive_masking": "none"}, "contrastive_masking"),
        ({"features_on": "cloud"}, "features_on"),
        ({"precision": "int4"}, "precision"),
        ({"temperature": 0.0}, "temperature"),
        ({"valid_users": 0}, "valid_every=0"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH"),
        ({"ema_decay": 0.99}, "ema_decay"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be a whole number of 1 or more"),
        ({"pretrain_pairs": "all"}, "pretrain_pairs"),
    ],
)
def test_bad_settings(mixture: Path, tiny: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run({**tiny, "epochs": 1, **settings})


def test_two_processes_equal_one(mixture: Path, tiny: dict[str, Any]) -> None:
    # a small step size: Adam makes a whole step of the sign of a gradient that is zero but for rounding
    settings = {**tiny, **EXACT, "epochs": 2, "learning_rate": 1e-3}
    one = run({**settings, "checkpoint_dir": "one"})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = subprocess.run(
        [*torchrun, *command({**settings, "checkpoint_dir": "two"}, "--backend=gloo")],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stdout.count("epoch   0") == 1  # the first process alone prints
    folder = Path("two") / "UniSRec-ab"
    history = json.loads((folder / "history.json").read_text())
    for a, b in zip(one.history, history, strict=True):
        assert a["seq_item"] == pytest.approx(b["seq_item"], rel=1e-5)
        assert a["seq_seq"] == pytest.approx(b["seq_seq"], rel=1e-4)
    expected, found = weights(one.folder), weights(folder)
    for name, tensor in expected.items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
