"""Every split, through training, evaluation, groups and the leaderboard's tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.cli import train_command
from recbole_unisrec.evaluation import read_ranks
from recbole_unisrec.leaderboard.stats import per_user
from recbole_unisrec.settings import build_config

RATIO = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user"}
TIME = {"split": {"TIME": [1005, 1007]}}


@pytest.fixture
def small(small: dict[str, Any]) -> dict[str, Any]:
    """Two epochs are enough here."""
    return {**small, "epochs": 2}


def trained(model: str, eval_args: dict[str, Any], small: dict[str, Any], **own: Any) -> quick_start.Result:
    config = build_config(model, "ring", [], {**small, "eval_args": eval_args, **own})
    return quick_start.train(config, tell=lambda _: None)


@pytest.mark.parametrize("eval_args", [RATIO, {**RATIO, "order": "RO", "group_by": None}, TIME], ids=str)
@pytest.mark.parametrize("own", [{}, {"cold_items": 0.2}, {"train_users": 0.5}], ids=str)
def test_several_items_to_find_of_one_user(
    ring: Path, small: dict[str, Any], eval_args: dict[str, Any], own: dict[str, Any]
) -> None:
    result = trained("UniSRec", eval_args, small, train_stage="inductive_ft", history_bias=True, **own)
    users, ranks = read_ranks(result.ranks)
    assert len(np.unique(users)) < len(users)
    assert result.test["hit@3"] == pytest.approx((ranks <= 3).mean(), abs=1e-6)
    for groups in result.groups.values():
        assert sum(group["users"] for group in groups.values()) == len(ranks)
        assert sum(group["users"] * group["hit@3"] for group in groups.values()) == pytest.approx((ranks <= 3).sum())


@pytest.mark.parametrize("eval_args", [RATIO, TIME], ids=str)
def test_recboles_own_models_are_asked_for_the_same_items(
    ring: Path, small: dict[str, Any], eval_args: dict[str, Any]
) -> None:
    own = {k: v for k, v in small.items() if k not in ("n_exps", "adaptor_dropout_prob")} | {"epochs": 1}
    gru = {k: v for k, v in own.items() if k in ("MAX_ITEM_LIST_LENGTH", "epochs", "topk", "valid_metric", "use_gpu")}
    results = [trained("SASRec", eval_args, own), trained("GRU4Rec", eval_args, gru)]
    own["selected_features"], own["load_col"] = ["text"], {"inter": ["user_id", "item_id", "timestamp"], "item": "*"}
    results.append(trained("FDSA", eval_args, own))  # by RecBole's own dataset
    users = [read_ranks(result.ranks)[0].tolist() for result in results]
    assert users[0] == users[1] == users[2]
    assert [list(result.groups["length"]) for result in results] == [list(results[0].groups["length"])] * 3


@pytest.mark.parametrize("mode", ["valid_only", "test_only"])
def test_a_part_that_a_split_lacks_is_left_empty(ring: Path, small: dict[str, Any], mode: str) -> None:
    result = trained("UniSRec", {"split": {"LS": mode}, "order": "TO"}, small, train_stage="inductive_ft")
    parts = {"valid_only": result.valid, "test_only": result.test}
    assert set(parts[mode]) == {"hit@3", "ndcg@3"}
    assert not (result.test if mode == "valid_only" else result.valid)
    assert len(result.epochs) == 2
    assert ("–" in quick_start.table([result])) == (mode == "valid_only" or not result.valid)
    assert Path(result.checkpoint).is_file()
    assert bool(result.ranks) == (mode == "test_only")


def test_each_phase_is_evaluated_as_asked(ring: Path, small: dict[str, Any]) -> None:
    small["epochs"] = 1  # drawing candidates moves the random numbers of what follows
    full, sampled = (
        trained("UniSRec", {**RATIO, "mode": mode}, small, train_stage="inductive_ft")
        for mode in ("full", {"valid": "uni3", "test": "full"})
    )
    assert sampled.test == full.test
    assert sampled.valid["hit@3"] > full.valid["hit@3"]  # among four items rather than 24
    reverse = trained(
        "UniSRec", {**RATIO, "mode": {"valid": "full", "test": "pop3"}}, small, train_stage="inductive_ft"
    )
    assert reverse.valid == full.valid
    assert reverse.test["hit@3"] > full.test["hit@3"]
    assert np.array_equal(read_ranks(reverse.ranks)[1], read_ranks(full.ranks)[1])  # groups are of full ranking


def test_nothing_to_test_by_is_said(ring: Path, small: dict[str, Any]) -> None:
    arguments = ["--dataset", "ring", "--use_gpu=False", "--eval_args={split: {TIME: [0, 0]}}"]
    assert run_cli(train_command, arguments) == 1


def test_each_user_counts_once_in_the_leaderboards_tests() -> None:
    ranks = np.array([[1, 9, 1, 1], [1, 1, 1, 9]])
    users = np.array(["b", "b", "a", "b"])
    assert per_user(ranks, "hit", 5, users).tolist() == [1, pytest.approx(2 / 3)]
    assert per_user(ranks, "hit", 5).tolist() == [1, 0.5, 1, 0.5]


def test_a_leaderboard_by_time(ring: Path, small: dict[str, Any], tmp_path: Path) -> None:
    names = [f"--{k}={v}" for k, v in small.items() if k not in ("valid_metric", "topk")]
    arguments = ["--leaderboard", "--dataset", "ring", "--models", "Pop", "SASRecPacked", "UniSRec-inductive"]
    more = [
        "--seeds",
        "1",
        "--no-tuning",
        "--topk=[3,10]",
        "--eval_args={split: {TIME: [1005, 1007]}}",
        "--out",
        "board",
    ]
    assert run_cli(train_command, [*arguments, *names, *more, "--epochs=1"]) == 0
    report = Path("board/report.md").read_text()
    assert "Split by time: validation from 1005, test from 1007, ranking over all items" in report
    assert "items to find" in report
    ranks = [read_ranks(file)[0].tolist() for file in sorted(Path("board/runs").glob("*/*.npz"))]
    assert len(ranks) == 3
    assert ranks[0] == ranks[1] == ranks[2]
    (row,) = Path("board/rows").glob("UniSRec*.json")
    assert "hit@3" in json.loads(row.read_text())["against SASRecPacked"]
