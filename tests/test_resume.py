"""Fine-tuning that was cut off goes on as if nothing had happened; RecBole's way to resume keeps the average too."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import get_model, get_trainer, init_seed

from dataset_tools.common import run_cli
from recbole_unisrec import checkpoint as store
from recbole_unisrec import quick_start, unfinished
from recbole_unisrec.cli import train_command
from recbole_unisrec.errors import UserError
from recbole_unisrec.run_state import difference, locked
from recbole_unisrec.safe_load import safe_torch_load
from recbole_unisrec.settings import build_config
from tests.conftest import SMALL, write_ring

pytestmark = pytest.mark.hardware

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
LONG = {**SMALL, "epochs": 14, "stopping_step": 14}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "inductive": ("UniSRec", {"train_stage": "inductive_ft"}),
    "transductive, recipe": ("UniSRec", {"train_stage": "transductive_ft", "recipe": "ours"}),
    "prefix by prefix": ("UniSRec", {"train_stage": "inductive_ft", "train_mode": "prefix"}),
    "SASRecPacked": ("SASRecPacked", {"learner": "adamw", "weight_decay": 0.01, "ema_decay": 0.9}),
    "ZESRec": ("ZESRec", {"learner": "adagrad"}),
}


def settings_of(model: str, own: dict[str, Any], folder: str) -> dict[str, Any]:
    known = {k: v for k, v in LONG.items() if model == "UniSRec" or k not in ("n_exps", "adaptor_dropout_prob")}
    return {**known, **own, "checkpoint_dir": folder}


def train(model: str, settings: dict[str, Any], resume: bool = False) -> tuple[quick_start.Result, list[str]]:
    said: list[str] = []
    result = quick_start.train(build_config(model, "ring", [], settings), tell=said.append, resume=resume)
    return result, said


def command(model: str, settings: dict[str, Any], *more: str) -> list[str]:
    given = [f"--{name}={value}" for name, value in settings.items() if name not in ("train_stage", "recipe")]
    given += [part for name in ("train_stage", "recipe") if name in settings for part in (f"--{name}", settings[name])]
    return [sys.executable, str(ROOT / "run_unisrec.py"), "--model", model, "--dataset", "ring", *given, *more]


def kill_after_a_state(model: str, settings: dict[str, Any], n_states: int = 1) -> Path:
    """Start a run, kill it some time after it wrote its first state or a later one, and give its folder."""
    folder = Path(settings["checkpoint_dir"])
    process = subprocess.Popen(command(model, settings), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    newest = -1
    while process.poll() is None and time.monotonic() < deadline:
        newest = max((int(p.name.removeprefix("step-")) for p in folder.glob("*.run/step-*")), default=-1)
        if newest >= n_states:
            break
        time.sleep(0.005)
    time.sleep(random.random() * 0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    (run,) = folder.glob("*.run")
    return run


def assert_same(a: quick_start.Result, b: quick_start.Result) -> None:
    for name in ("valid", "test", "best_epoch", "groups", "n_parameters", "data"):
        assert getattr(a, name) == getattr(b, name), name
    timeless = [[{k: v for k, v in e.items() if k != "seconds"} for e in r.epochs] for r in (a, b)]
    assert timeless[0] == timeless[1]
    whole, again = (safe_torch_load(r.checkpoint)["state_dict"] for r in (a, b))
    assert set(whole) == set(again)
    for name in whole:
        assert torch.equal(whole[name], again[name]), name


def test_goes_on_after_a_kill_at_any_moment(ring: Path) -> None:
    model, own = VARIANTS["transductive, recipe"]
    expected, _ = train(model, settings_of(model, own, "whole"))
    settings = settings_of(model, own, "killed")
    run = kill_after_a_state(model, settings, n_states=random.randrange(1, 5))
    assert not run.with_suffix(".json").exists()
    again, said = train(model, settings, resume=True)
    assert any(line.startswith(f"resumed from {run}/step-") for line in said)
    assert again.checkpoint == str(run.with_suffix(".pth"))
    assert_same(expected, again)
    assert not list(Path("killed").glob("*.run"))
    assert json.loads(run.with_suffix(".json").read_text(encoding="utf-8"))["data"] == expected.data
    # and what has finished is not trained again
    third, said = train(model, settings, resume=True)
    assert said == [f"{again.checkpoint} has these settings and its run is finished: nothing is trained"]
    assert_same(expected, third)


def cut_off(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], epoch: int = 5, model: str = "UniSRec") -> Path:
    """A run that ends in the middle of an epoch; gives its folder."""
    original = unfinished.RunFolder.epoch_starts

    def epoch_starts(self: Any, trainer: Any, loader: Any, now: int) -> None:
        self._cost = 0.0  # a state at each epoch, however long it takes to write
        original(self, trainer, loader, now)
        if now == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.RunFolder, "epoch_starts", epoch_starts)
        with contextlib.suppress(KeyboardInterrupt):
            train(model, settings)
    (run,) = Path(settings["checkpoint_dir"]).glob("*.run")
    return run


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "transductive, recipe"])
def test_each_way_of_training_goes_on(ring: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, own = VARIANTS[name]
    expected, _ = train(model, settings_of(model, {**own, "epochs": 8}, "whole"))
    settings = settings_of(model, {**own, "epochs": 8}, "saved")
    run = cut_off(monkeypatch, settings, model=model)
    again, said = train(model, settings, resume=True)
    assert any(line.startswith(f"resumed from {run}/step-00000005: epoch 5") for line in said)
    assert_same(expected, again)


def test_the_best_epoch_is_the_one_of_the_state(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("UniSRec", {"train_stage": "inductive_ft"}, "saved")
    run = cut_off(monkeypatch, settings)
    # the epoch that was cut off had a better one, which another machine might not see again
    checkpoint = run.with_suffix(".pth")
    best = safe_torch_load(checkpoint)
    torch.save({**best, "epoch": 99}, "later", pickle_protocol=4)
    os.replace("later", checkpoint)
    kept = run / "step-00000005" / unfinished.BEST
    assert safe_torch_load(kept)["epoch"] == best["epoch"]
    trainer = get_trainer(None, "UniSRec")
    seen = []
    monkeypatch.setattr(trainer, "fit", lambda self, *_, **__: seen.append(safe_torch_load(checkpoint)["epoch"]))
    train("UniSRec", settings, resume=True)
    assert seen == [best["epoch"]]


def test_a_torn_state_gives_way_to_the_one_before(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"train_stage": "transductive_ft", "recipe": "ours"}
    expected, _ = train("UniSRec", settings_of("UniSRec", own, "whole"))
    settings = settings_of("UniSRec", own, "saved")
    run = cut_off(monkeypatch, settings)
    newest, before = store.list_checkpoints(run)
    (newest / store.OPTIMIZER).write_bytes((newest / store.OPTIMIZER).read_bytes()[:-30])
    again, said = train("UniSRec", settings, resume=True)
    assert any("torn checkpoint passed over" in line and f"resumed from {before}" in line for line in said)
    assert_same(expected, again)


def test_other_settings_or_data_are_not_resumed(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("UniSRec", {"train_stage": "inductive_ft"}, "saved")
    run = cut_off(monkeypatch, settings, epoch=2)
    short = {**settings, "epochs": 1}
    for name, value in (("adaptor_dropout_prob", 0.3), ("learning_rate", 0.02), ("ema_decay", 0.9)):
        _, said = train("UniSRec", {**short, name: value}, resume=True)
        assert said[0].endswith(f"{run} was made with {name} {settings.get(name)}, now it is {value}; starting anew")
    features = ring / "ring" / "ring.feat1CLS"
    original = features.read_bytes()
    features.write_bytes(original[4:] + original[:4])  # every number one place on
    _, said = train("UniSRec", short, resume=True)
    assert said[0].endswith(f"{run} was made with other data; starting anew")
    features.write_bytes(original)
    result, said = train("UniSRec", {**settings, "epochs": 4, "show_progress": True}, resume=True)  # both may differ
    assert any(line.startswith("resumed from") for line in said)
    assert [epoch["epoch"] for epoch in result.epochs] == [0, 1, 2, 3]
    longer, said = train("UniSRec", {**settings, "epochs": 5}, resume=True)  # that run is finished, but not so long
    assert said[0].startswith("nothing to resume")
    assert longer.epochs[3]["loss"] == result.epochs[3]["loss"]
    assert len(longer.epochs) == 5


def test_a_run_that_is_alive_is_left_alone(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("UniSRec", {"train_stage": "inductive_ft"}, "saved")
    run = cut_off(monkeypatch, settings, epoch=2)
    assert "did not finish (it was cut off after epoch 1)" in str(unfinished.remark(run.with_suffix(".pth")))
    with locked(run):
        assert "is still training" in str(unfinished.remark(run.with_suffix(".pth")))
        result, said = train("UniSRec", {**settings, "epochs": 3}, resume=True)
        assert said[0].startswith("nothing to resume")
        with pytest.raises(UserError, match=r"another process is training in .*; wait until it has ended"), locked(run):
            pass
    assert unfinished.remark(Path(result.checkpoint)) is None
    result, said = train("UniSRec", {**settings, "epochs": 3}, resume=True)
    assert result.checkpoint == str(run.with_suffix(".pth"))


def test_only_models_of_ours_are_resumed(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(train_command, ["--model", "SASRec", "--dataset", "ring", "--resume"]) == 1
    assert "SASRec cannot be resumed; --resume goes with UniSRec" in capsys.readouterr().err


def test_differences_are_those_that_count() -> None:
    same = {"learning_rate": 0.1, "topk": [10], "epochs": 3, "cold_items": None, "device": "cuda"}
    assert difference(same, {**same, "epochs": 9, "device": "cpu", "new_in_this_version": False}) is None
    assert difference(same, {**same, "cold_items": 0.1}) == "cold_items None, now it is 0.1"
    assert difference({**same, "gone": 3}, same) == "gone 3, now it is None"
    assert difference(same, {**same, "seed": 0}) == "seed None, now it is 0"


# --- RecBole's own way


@pytest.mark.parametrize("decay", [None, 0.9])
def test_recboles_way_keeps_the_average(ring: Path, decay: float | None) -> None:
    """Train for six epochs and resume: the weights, the average and the metrics are those that were saved."""
    from recbole.data import create_dataset, data_preparation

    settings = {**SMALL, "train_stage": "inductive_ft", "ema_decay": decay, "hidden_dropout_prob": 0.0}
    config = build_config("UniSRec", "ring", [], {**settings, "epochs": 6})
    init_seed(config["seed"], True)
    train_data, valid, test = data_preparation(config, create_dataset(config))

    def new() -> Any:
        return get_trainer(config["MODEL_TYPE"], "UniSRec")(config, get_model("UniSRec")(config, train_data._dataset))

    trainer = new()
    trainer.eval_step = 0  # so that the last epoch is the one that is saved
    trainer.fit(train_data)
    metrics = trainer.evaluate(test, load_best_model=False)
    assert metrics["ndcg@3"] > 0.2  # of untrained weights about 0.09
    again = new()
    again.resume_checkpoint(trainer.saved_model_file)
    assert again.start_epoch == 6
    assert again.evaluate(test, load_best_model=False) == metrics
    for mine, theirs in zip(again.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)  # those that learn, not their average
    assert again.fit(train_data, valid) == (again.best_valid_score, None)  # nothing left to do
    assert again.evaluate(test) == metrics
    other = build_config("UniSRec", "ring", [], {**settings, "ema_decay": 0.5 if decay is None else None})
    wrong = get_trainer(None, "UniSRec")(other, get_model("UniSRec")(other, train_data._dataset))
    with pytest.raises(UserError, match=r"average of the weights, but ema_decay=.* wants"):
        wrong.resume_checkpoint(trainer.saved_model_file)


def test_runs_of_recboles_models_have_names_of_their_own(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole.trainer.trainer.get_local_time", lambda: "now")
    settings = {k: v for k, v in SMALL.items() if k not in ("n_exps", "adaptor_dropout_prob")}
    results = [quick_start.train(build_config("SASRec", "ring", [], {**settings, "epochs": 1})) for _ in range(2)]
    assert len({r.checkpoint for r in results}) == 2
    assert len({r.ranks for r in results}) == 2
    for result in results:
        assert Path(result.checkpoint).is_file()
        assert Path(result.checkpoint).with_suffix(".json").is_file()


# --- serving


def test_save_says_that_a_run_did_not_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from recbole_unisrec.serving.cli import COMMANDS

    monkeypatch.chdir(tmp_path)
    write_ring(tmp_path / "dataset")
    settings = settings_of("UniSRec", {"train_stage": "inductive_ft"}, "saved")
    run = cut_off(monkeypatch, settings, epoch=3)
    assert run_cli(COMMANDS["save"][0], ["--model", "saved", "--out", "model"]) == 0
    said = f"{run.with_suffix('.pth')} is of a run that did not finish (it was cut off after epoch 2)"
    assert said in capfd.readouterr().err
    train("UniSRec", {**settings, "epochs": 4}, resume=True)
    assert run_cli(COMMANDS["save"][0], ["--model", "saved", "--out", "model2"]) == 0
    assert "did not finish" not in capfd.readouterr().err
