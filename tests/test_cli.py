"""The command as a user types it."""

import importlib.util
import json
from pathlib import Path

import pytest

from dataset_tools.common import run_cli
from recbole_unisrec.cli import main, train_command

pytestmark = pytest.mark.hardware

SMALL = ["--hidden_size=16", "--inner_size=16", "--epochs", "1", "--show_progress=False", "--use_gpu=False"]

TOPK = "--topk=[10, 20]"


def run(*arguments: str) -> int:
    return run_cli(train_command, [*arguments, *SMALL])


def test_two_models_give_one_table_and_a_json_each(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("--model", "UniSRec", "SASRec", "--dataset", "ring", "--train_stage", "inductive_ft", "--seed", "3", TOPK)
        == 0
    )
    printed = capsys.readouterr().out
    assert "UniSRec inductive" in printed
    assert printed.count("valid NDCG@10") == 2
    assert "HIT@20" in printed
    files = sorted(Path("saved").glob("*.json"))
    assert [json.loads(f.read_text())["model"] for f in files] == ["SASRec", "UniSRec"]
    found = json.loads(files[1].read_text())
    assert found["seed"] == 3
    assert found["config"]["hidden_size"] == 16
    assert found["versions"]["recbole"] == "1.2.1"
    assert set(found["test"]) == {"hit@10", "hit@20", "ndcg@10", "ndcg@20"}
    assert Path(found["checkpoint"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "nowhere"], "dataset 'nowhere' is not there"),
        (["--dataset", "Scientific"], "python -m dataset_tools.amazon Scientific"),
        (["--dataset", "ring", "--model", "UniSRek"], "did you mean UniSRec"),
        (
            ["--dataset", "ring", "--train_stage", "finetune"],
            "train_stage must be one of inductive_ft, transductive_ft, pretrain, not 'finetune'",
        ),
        (["--dataset", "ring", "--learning_rat=0.1"], "did you mean learning_rate"),
        (["--dataset", "ring", "--learning_rate=fast"], "learning_rate must be a number above 0, not 'fast'"),
        (["--dataset", "ring", "--n_heads=3"], "not a multiple of n_heads"),
        (["--dataset", "ring", "--config", "none.yaml"], "cannot read the property file none.yaml"),
        (["--dataset", "ring", "--plm_size=7"], "width 16, but plm_size is 7"),
        (["--dataset", "ring", "--plm_suffix=feat9"], "ring.feat9 does not exist"),
        (["--dataset", "ring", "--checkpoint_dir=/proc/none"], "cannot write to /proc/none: "),
        (["--dataset", "ring", "--precision=fp8"], "precision must be one of fp32, bf16, not 'fp8'"),
        (["--dataset", "ring", "--learning_rate=1e30", "--train_batch_size=64"], "loss is not finite"),
        (["--dataset", "ring", "--model", "SASRec"], "topk 50 is more than the 24 items"),
        (["--dataset", "ring", "--model", "LightSANs", "--cold_items=0.1"], "cold_items goes with SASRec"),
        (
            ["--dataset", "ring", "--cold_items=2"],
            "cold_items must be a number above 0 and below 1, or ~ for nothing, not 2",
        ),
        (["--dataset", "ring", "--model", "LightSANs", "--train_users=0.1"], "train_users goes with SASRec"),
        (["--dataset", "ring", "--train_users=0"], "train_users must be a number above 0 and at most 1"),
        (["--dataset", "ring", "--recipe", "secret"], "unknown recipe 'secret'; choose one of paper, ours"),
        (["--dataset", "ring", "--model", "SASRec", "--recipe", "ours"], "SASRec can use nothing of the recipe"),
        (
            ["--dataset", "ring", "--model", "SASRec", "--history_bias=True"],
            "SASRec has no history_bias; it goes with UniSRec",
        ),
        (
            ["--dataset", "ring", "--feature_scaling=zip"],
            "feature_scaling must be one of none, standardize, whiten, not 'zip'",
        ),
        (["--dataset", "ring", "--ema_decay=1.5"], "ema_decay must be a number above 0 and below 1"),
        (["--dataset", "ring", "--freeze", "encoder"], "freeze without pretrained"),
        pytest.param(
            ["--dataset", "ring", "--log_wandb=True"],
            "run `pip install wandb`",
            marks=pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed"),
        ),
        (["--dataset", "ring", "--nonsense"], "unknown option '--nonsense'"),
    ],
)
def test_mistakes_are_one_sentence(
    ring: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(ring: Path) -> None:
    with pytest.raises(Exception, match="not there"):
        run("--dataset", "nowhere", "--debug")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dance"]) == 2
    assert "unknown command 'dance'" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["random", "time"])
def test_new_items_are_found_by_their_text(ring: Path, by: str) -> None:
    settings = ["--cold_items=0.2", f"--cold_by={by}", "--train_stage", "inductive_ft", TOPK]
    assert run("--model", "UniSRec", "--dataset", "ring", *settings) == 0
    (file,) = Path("saved").glob("*.json")
    groups = json.loads(file.read_text())["groups"]["popularity"]
    assert groups["0"]["users"] > 0
    assert 0 <= groups["0"]["hit@10"] <= 1
    assert "1-4" not in groups or groups["1-4"]["users"] > 0


def test_a_model_takes_of_the_recipe_what_it_knows(ring: Path) -> None:
    assert run("--model", "SASRecPacked", "--dataset", "ring", "--recipe", "ours", TOPK) == 0
    (file,) = Path("saved").glob("*.json")
    config = json.loads(file.read_text())["config"]
    assert (config["history_bias"], config["ema_decay"]) == (True, 0.98)
    assert "feature_scaling" not in config


def test_each_of_several_models_takes_the_settings_that_it_knows(
    ring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--model", "SASRecPacked", "SASRec", "--dataset", "ring", TOPK]
    assert run(*both, "--precision=bf16", "--recipe", "ours") == 0
    configs = [json.loads(file.read_text())["config"] for file in sorted(Path("saved").glob("*.json"))]
    assert [c.get("precision") for c in configs if c["model"] == "SASRecPacked"] == ["bf16"]
    assert not any("history_bias" in c for c in configs if c["model"] == "SASRec")
    # what nobody knows, or one cannot read, is said before anything is trained
    for wrong in ("--temperatur=1", "--n_heads=3"):
        assert run(*both, wrong) == 1
    assert len(list(Path("saved").glob("*.json"))) == len(configs) == 2


def test_the_recipe_is_written_down_and_can_be_overridden(ring: Path) -> None:
    assert run("--model", "UniSRec", "--dataset", "ring", "--recipe", "ours", "--ema_decay=0.5", TOPK) == 0
    (file,) = Path("saved").glob("*.json")
    config = json.loads(file.read_text())["config"]
    assert (config["feature_scaling"], config["ema_decay"]) == ("whiten", 0.5)
