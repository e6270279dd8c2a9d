"""Means over seeds, and whether a difference in them is more than luck."""

from __future__ import annotations

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


def per_user(ranks: np.ndarray, metric: str = "ndcg", k: int = 10) -> np.ndarray:
    """Metric of each user, mean over seeds: int64 ranks [S, U] -> float64 [U]."""
    return np.mean([gains(torch.from_numpy(seed), metric, k).numpy() for seed in ranks], axis=0)


def holm(p: list[float]) -> list[float]:
    """Holm's correction of p-values for multiple tests."""
    order = np.argsort(p)
    corrected, largest = [0.0] * len(p), 0.0
    for i, position in enumerate(order):
        largest = max(largest, min(1.0, p[position] * (len(p) - i)))
        corrected[position] = largest
    return corrected


def compare(rows: dict[str, np.ndarray], reference: str) -> dict[str, Comparison]:
    """Paired test of every row against one.

    Parameters
    ----------
    rows
        float64 [U] metric of each user, the users in one order for all rows.
    reference
        Name of the row to compare with.

    Returns
    -------
    dict
        A `Comparison` for each other row.
    """
    base = rows[reference]
    others = [name for name in rows if name != reference]
    raw = []
    for name in others:
        p = stats.ttest_rel(rows[name], base).pvalue if np.any(rows[name] != base) else 1.0
        raw.append(float(p))
    mean = float(base.mean())
    found = {}
    for name, p in zip(others, holm(raw), strict=True):
        difference = float(rows[name].mean()) - mean
        found[name] = Comparison(difference, difference / mean if mean else float("nan"), p)
    return found
