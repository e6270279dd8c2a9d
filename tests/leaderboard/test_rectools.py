"""RecTools' model as a row; the tests of the model itself need the package."""

import sys
from pathlib import Path

import pytest

from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command
from recbole_unisrec.leaderboard import rectools
from recbole_unisrec.settings import build_config

SETTINGS = {
    "hidden_size": 16, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 8, "learning_rate": 0.003, "train_batch_size": 16, "epochs": 30,
    "topk": [3], "valid_metric": "NDCG@3", "use_gpu": False, "checkpoint_dir": "run",
}  # fmt: skip


@pytest.mark.usefixtures("ring")
def test_without_the_package_the_row_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rectools.fast_transformers", None)
    assert run_cli(train_command, ["--leaderboard", "--dataset", "ring", "--models", "RecTools-UniSRec"]) == 1
    assert "pip install 'rectools[torch]'" in capsys.readouterr().err
    assert not Path("leaderboard/ring/runs/RecTools-UniSRec").exists()


@pytest.mark.usefixtures("ring")
def test_it_learns_the_ring_and_ranks_all_items() -> None:
    pytest.importorskip("rectools.fast_transformers", reason="rectools is not installed")
    result = rectools.train(build_config("SASRecText", "ring", [], SETTINGS))
    assert result.test["hit@3"] > 0.8  # three of 24 items at random: 0.125
    assert max(epoch["valid_score"] for epoch in result.epochs) == result.valid["ndcg@3"]
    assert result.versions["rectools"]
