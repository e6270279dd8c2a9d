"""Statistics against plain ones."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from recbole_unisrec.evaluation import group_metrics, group_names
from recbole_unisrec.leaderboard.stats import compare, holm, per_user


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_comparison_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    better = base + 0.05 + 0.1 * rng.standard_normal(200)
    rows = {"SASRec": base, "better": better, "same": base.copy()}
    found = compare({name: {"hit": values, "ndcg": 2 * values} for name, values in rows.items()}, "SASRec")
    assert set(found) == {"better", "same"}
    assert found["better"]["hit"].p == pytest.approx(4 * scipy_stats.ttest_rel(better, base).pvalue)  # of four tests
    assert found["better"]["ndcg"].relative == pytest.approx(better.mean() / base.mean() - 1)
    assert found["same"]["ndcg"].p == 1.0


def test_per_user_is_the_mean_over_seeds() -> None:
    assert per_user(np.array([[1, 11], [3, 1]])) == pytest.approx([(1 + 0.5) / 2, 0.5])


def test_groups_by_hand() -> None:
    assert group_names((0, 1, 5)) == ["0", "1-4", "5+"]
    found = group_metrics(np.array([1, 20, 2, 99]), np.array([0, 0, 4, 7]), (0, 1, 5), ["hit"], [10])
    assert found == {
        "0": {"users": 2, "hit@10": 0.5}, "1-4": {"users": 1, "hit@10": 1.0}, "5+": {"users": 1, "hit@10": 0.0}
    }  # fmt: skip
