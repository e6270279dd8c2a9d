"""Metrics beyond accuracy: RecBole's own values, for its models and, without lists of items, for ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator.metrics import (
    AveragePopularity,
    GiniIndex,
    ItemCoverage,
    ShannonEntropy,
    TailPercentage,
)

from dataset_tools.common import run_cli
from recbole_unisrec import quick_start
from recbole_unisrec.beyond import BEYOND, Recommended, beyond_metrics
from recbole_unisrec.cli import train_command
from recbole_unisrec.settings import build_config

NAMES = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage"]


class Held(dict[str, Any]):
    """What RecBole's metrics read from."""


@pytest.mark.parametrize("tail", [None, 0.1, 0.5, 3])
def test_each_equals_recboles_over_random_lists(tail: float | None) -> None:
    torch.manual_seed(0)
    n_items, topk = 30, [1, 5, 12]
    scores = torch.randn(40, n_items) + torch.linspace(2, -2, n_items)
    scores[:, 0] = -torch.inf
    popularity = torch.randint(0, 5, (n_items,))
    popularity[0] = 0
    recommended = Recommended(n_items, topk)
    for block in scores.split(7):
        recommended.add(block)
    held = Held({
        "rec.items": scores.topk(12).indices, "data.num_items": n_items,
        "data.count_items": {i: int(n) for i, n in enumerate(popularity) if n},
    })  # fmt: skip
    config = {"topk": topk, "metric_decimal_place": 9, "tail_ratio": tail}
    expected: dict[str, float] = {}
    for metric in (ItemCoverage, GiniIndex, ShannonEntropy, TailPercentage):
        expected.update(metric(config).calculate_metric(held))
    found = beyond_metrics(recommended, BEYOND, popularity, tail)
    assert {k: v for k, v in found.items() if k in expected} == pytest.approx(expected, abs=1e-8)
    popular = AveragePopularity(config).calculate_metric(held)
    assert {k: v for k, v in found.items() if k in popular} == pytest.approx(popular, abs=1e-8)


@pytest.mark.parametrize("model", ["UniSRec", "SASRec"])
def test_all_ten_metrics_of_a_run(ring: Path, small: dict[str, Any], model: str) -> None:
    small.update(epochs=1, metrics=["Recall", "MRR", "NDCG", "Hit", "Precision", *NAMES], topk=[3], tail_ratio=0.2)
    if model == "SASRec":
        del small["n_exps"], small["adaptor_dropout_prob"]
    result = quick_start.train(build_config(model, "ring", [], small), tell=lambda _: None)
    assert list(result.test) == [f"{name.lower()}@3" for name in small["metrics"]]
    assert 0 < result.test["itemcoverage@3"] <= 24 / 25  # RecBole counts the padding as an item
    assert result.test["averagepopularity@3"] > 1


def test_our_evaluation_equals_recboles(ring: Path, small: dict[str, Any]) -> None:
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer

    from recbole_unisrec.trainer import PackedTrainer

    small.update(metrics=["NDCG", *NAMES], topk=[3, 5], history_bias=True, epochs=1)
    config = build_config("UniSRec", "ring", [], small)
    train, _, test = data_preparation(config, create_dataset(config))
    trainer = get_trainer(None, "UniSRec")(config, get_model("UniSRec")(config, train._dataset))
    trainer.fit(train, saved=False)
    ours = trainer.evaluate(test, load_best_model=False)
    theirs = super(PackedTrainer, trainer).evaluate(test, load_best_model=False)
    assert list(ours) == list(theirs)
    assert dict(ours) == pytest.approx(dict(theirs), abs=2e-6)
    assert np.isfinite(list(ours.values())).all()


def test_the_leaderboard_shows_them_beside_accuracy(ring: Path, small: dict[str, Any]) -> None:
    others = ("valid_metric", "topk", "epochs", "n_exps", "adaptor_dropout_prob")
    own = [f"--{k}={v}" for k, v in small.items() if k not in others]
    arguments = ["--leaderboard", "--dataset", "ring", "--models", "Pop", "SASRecPacked", "--seeds", "1", "--no-tuning"]
    more = ["--topk=[3,10]", "--metrics=[HIT,ItemCoverage,GiniIndex]", "--epochs=1", "--out", "board"]
    assert run_cli(train_command, [*arguments, *own, *more]) == 0
    report = Path("board/report.md").read_text()
    assert "## Beyond accuracy" in report
    table = report.split("## Beyond accuracy")[1].split("##")[0]
    assert "itemcoverage@3" in table
    pop = next(line for line in table.splitlines() if line.startswith("| Pop"))
    assert "0.1200" in pop  # three of 25, RecBole's way of counting
