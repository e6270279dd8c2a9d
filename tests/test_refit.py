"""A last fit on all the data: what it learns from, what its card says, and that it is what gets served."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.cli import train_command
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.text_path import DECAY, KAPPA, POPULARITY, STEP
from recbole_unisrec.refit import refit
from recbole_unisrec.safe_load import safe_torch_load
from recbole_unisrec.serving.cli import save_command
from recbole_unisrec.settings import build_config

OWN = {"train_stage": "inductive_ft", "epochs": 3, "cold_items": 0.2, "train_users": 0.5, "ema_decay": 0.9}


def pairs_of(lines: list[str]) -> int:
    (line,) = [line for line in lines if "training pairs" in line]
    return int(line.split(" training pairs")[0].split()[-1].replace(",", ""))


def test_everything_trains_for_the_epochs_that_were_chosen(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("UniSRec", "ring", [], {**small, **OWN})
    result = quick_start.train(config, tell=lambda _: None)
    before = json.loads(Path(result.checkpoint).with_suffix(".json").read_text())
    lines: list[str] = []
    again = refit(config, result, tell=lines.append)
    rows = (ring / "ring" / "ring.inter").read_text().splitlines()[1:]
    assert pairs_of(lines) == len(rows) - len({row.split("\t")[0] for row in rows})
    assert len(again.epochs) == result.best_epoch + 1
    assert again.checkpoint == result.checkpoint.replace(".pth", "-refit.pth")
    card = json.loads(Path(again.checkpoint).with_suffix(".json").read_text())
    assert (card["valid"], card["test"], card["groups"]) == (before["valid"], before["test"], before["groups"])
    assert card["refit"]["figures_of"] == Path(result.checkpoint).with_suffix(".json").name
    assert before["refit"] is None
    assert json.loads(Path(result.checkpoint).with_suffix(".json").read_text()) == before
    weights = [safe_torch_load(r.checkpoint)["state_dict"] for r in (result, again)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_was_not_trained_is_not_fitted_again(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("UniSRec", "ring", [], {**small, "epochs": 0})
    result = quick_start.train(config, tell=lambda _: None)
    with pytest.raises(UserError, match="nothing to fit again"):
        refit(config, result)
    assert run_cli(train_command, ["--dataset", "ring", "--epochs", "0", "--refit"]) == 1


def test_the_path_starts_where_validation_chose(ring: Path, small: dict[str, Any]) -> None:
    settings = {**small, **OWN, "text_path": True, "learning_rate": 1e-9, "ema_decay": None, "epochs": 1}
    config = build_config("UniSRec", "ring", [], settings)
    result = quick_start.train(config, tell=lambda _: None)
    result.best_epoch = 0  # with this rate the start may stay best, and then there is nothing to fit again
    result.path_start = {"text_path_popularity": 0.05, "text_path_decay": 0.5}  # whatever it was
    again = refit(config, result, tell=lambda _: None)
    weights = safe_torch_load(again.checkpoint)["state_dict"]
    ages = torch.arange(8) * (math.log(0.5 / DECAY) / STEP)
    torch.testing.assert_close(weights["text_path.age"], ages, atol=1e-6, rtol=0)
    assert float(weights["text_path.beta"]) == pytest.approx(KAPPA * (0.05 - POPULARITY) / STEP, abs=1e-6)
    card = json.loads(Path(again.checkpoint).with_suffix(".json").read_text())
    assert (card["config"]["text_path_decay"], card["config"]["text_path_popularity"]) == (0.5, 0.05)


def test_save_takes_it_and_says_so(ring: Path, small: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    own = [f"--{k}={v}" for k, v in {**small, "epochs": 1}.items()]
    arguments = ["--dataset", "ring", "--train_stage", "inductive_ft", "--refit", *own]
    assert run_cli(train_command, arguments) == 0
    printed = capsys.readouterr().out
    assert "fitted again on all the data" in printed
    assert "1 epochs as chosen on validation" in printed
    (first,) = (file for file in Path("saved").glob("*.pth") if "refit" not in file.name)
    beside = first.with_name(f"{first.stem}-refit.pth")
    for model in ("saved", str(first), str(beside)):
        assert run_cli(save_command, ["--model", model, "--out", "out"]) == 0
        assert f"{beside} has learned from all the data" in capsys.readouterr().out
        assert run_cli(save_command, ["--model", model, "--out", "out", "--measured"]) == 0
        assert "learned from all" not in capsys.readouterr().out


@pytest.mark.parametrize("model", ["SASRec", "FDSAText"])
def test_recboles_own_models_are_fitted_again_too(ring: Path, small: dict[str, Any], model: str) -> None:
    own = {k: v for k, v in small.items() if k not in ("n_exps", "adaptor_dropout_prob")} | {"epochs": 1}
    config = build_config(model, "ring", [], own)
    lines: list[str] = []
    refit(config, quick_start.train(config, tell=lambda _: None), tell=lines.append)
    assert pairs_of(lines) > 500
