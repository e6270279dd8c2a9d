"""What a leaderboard is made of: one finished run, the runs of one row, and whoever watches them come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from recbole_unisrec.evaluation import LENGTH, POPULARITY
from recbole_unisrec.leaderboard.rows import Row

METRICS = ("hit", "ndcg")
TOPK = [10, 50]
FIRST_SEED = 2020
GROUPS = {"popularity": POPULARITY, "length": LENGTH}


@dataclass
class Run:
    """One finished run; also the layout of its JSON file.

    Attributes
    ----------
    key
        Of everything that the result depends on; the file's name.
    point
        The grid point.
    valid, test
        Metrics by name.
    valid_score
        What the choice among grid points goes by: NDCG@10 on validation.
    groups
        Test metrics by ``popularity`` of the target and by ``length`` of the history, see `quick_start.Result`.
    curve
        Validation score by epoch.
    seconds, n_parameters
        Wall time of training and evaluation, and number of trained values.
    config, versions
        As in `quick_start.Result`.
    """

    row: str
    key: str
    seed: int
    point: dict[str, Any]
    valid: dict[str, float]
    test: dict[str, float]
    valid_score: float
    groups: dict[str, dict[str, dict[str, float]]]
    curve: list[float]
    seconds: float
    n_parameters: int
    config: dict[str, Any] = field(repr=False, default_factory=dict)
    versions: dict[str, str] = field(repr=False, default_factory=dict)


@dataclass
class Standing:
    """The finished runs of one row: those of the tuning, and one for each seed with the chosen grid point."""

    name: str
    row: Row
    tuning: list[Run]
    runs: list[Run]

    @property
    def chosen(self) -> dict[str, Any]:
        """The grid point that was best on validation."""
        return self.runs[0].point if self.runs else {}

    @property
    def tuned(self) -> bool:
        """Whether there was a choice."""
        return len(self.tuning) > 1

    def values(self, metric: str) -> np.ndarray:
        """Test metric of each seed, float64 [S]."""
        return np.array([run.test[metric] for run in self.runs])

    def group(self, kind: str, name: str, metric: str) -> np.ndarray:
        """Test metric of each seed among one group of users, float64 [S]."""
        return np.array([run.groups[kind][name][metric] for run in self.runs])


class Watcher(Protocol):
    """Is told what a leaderboard does (see `live.Watch`)."""

    def tell(self, line: str) -> None:
        """What the run at work says."""

    def begin(self, what: str) -> None:
        """A run starts."""

    def end(self, what: str, run: Run, known: bool) -> None:
        """A run is there; `known`: from before."""
