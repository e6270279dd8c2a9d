"""Means over seeds, and whether a difference in them is more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from recbole_unisrec.metrics import gains


@dataclass(frozen=True)
class Comparison:
    """A row against the reference.

    Attributes
    ----------
    difference
        Mean difference of the metric, the row less the reference.
    relative
        The same as a share of the reference.
    p
        Two-sided p of the paired t-test over users, corrected by Holm for the number of tests.
    """

    difference: float
    relative: float
    p: float


def per_user(ranks: np.ndarray, metric: str = "ndcg", k: int = 10, users: np.ndarray | None = None) -> np.ndarray:
    """Metric of each user, mean over seeds and over the user's items to find.

    Parameters
    ----------
    ranks
        int64 [S, P] ranks of the items to find for each seed.
    metric, k
        As in `metrics.gains`.
    users
        [P] whose item each is; None where each user has one.

    Returns
    -------
    np.ndarray
        float64 [U], the users in ascending order.
    """
    values = np.mean([gains(torch.from_numpy(seed), metric, k).numpy() for seed in ranks], axis=0)
    if users is None:
        return values
    _, which, count = np.unique(users, return_inverse=True, return_counts=True)
    return np.bincount(which, weights=values) / count


def holm(p: list[float]) -> list[float]:
    """Holm's correction of p-values for multiple tests."""
    order = np.argsort(p)
    corrected, largest = [0.0] * len(p), 0.0
    for i, position in enumerate(order):
        largest = max(largest, min(1.0, p[position] * (len(p) - i)))
        corrected[position] = largest
    return corrected


def compare(rows: dict[str, dict[str, np.ndarray]], reference: str) -> dict[str, dict[str, Comparison]]:
    """Paired test of every row against one, in every metric.

    Parameters
    ----------
    rows
        By row and metric, float64 [U] values of each user, the users in one order for all.
    reference
        Name of the row to compare with.

    Returns
    -------
    dict
        A `Comparison` for each other row and metric.
    """
    tests = [(name, metric) for name in rows if name != reference for metric in rows[name]]
    pairs = [(rows[name][metric], rows[reference][metric]) for name, metric in tests]
    found: dict[str, dict[str, Comparison]] = {}
    for (name, metric), comparison in zip(tests, compare_all(pairs), strict=True):
        found.setdefault(name, {})[metric] = comparison
    return found


def compare_all(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Comparison]:
    """Paired tests with one correction for all of them.

    Parameters
    ----------
    pairs
        Values of each user, float64 [U], of a row and of the one that it is compared with.
    """
    raw = [float(stats.ttest_rel(values, base).pvalue) if np.any(values != base) else 1.0 for values, base in pairs]
    found = []
    for (values, base), p in zip(pairs, holm(raw), strict=True):
        mean = float(base.mean())
        difference = float(values.mean()) - mean
        found.append(Comparison(difference, difference / mean if mean else float("nan"), p))
    return found
