"""Rows of several datasets against each other: tests with one correction for all of them, mean ranks, wins and losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from recbole_unisrec.leaderboard.runner import Leaderboard
from recbole_unisrec.leaderboard.runs import Standing
from recbole_unisrec.leaderboard.stats import Comparison, compare_all, per_user
from recbole_unisrec.leaderboard.stored import Condition, StoredBoard

ALPHA = 0.05  # a difference with a smaller corrected p is a win or a loss, any other a tie


def share_text(share: float) -> str:
    """``0``, ``10%`` or ``all`` of the users."""
    return "all" if share == 1 else f"{100 * share:g}%" if share else "0"


@dataclass(frozen=True)
class SetResult:
    """The rows of one dataset.

    Attributes
    ----------
    dataset
        Its name.
    names, score
        Test metrics, and the one that chooses on validation.
    n_users, n_pairs
        Test users, and items that they are to find.
    standings
        Rows with one finished run or more.
    values
        By row and metric, float64 [U] of each test user.
    share
        Share of the users that the rows learned from; 0: nothing was trained on the dataset.
    other
        What else is unusual in the data (see `stored.Condition`).
    page
        Its own report, from the folder of the summary; empty if there is none.
    """

    dataset: str
    names: list[str]
    score: str
    n_users: int
    n_pairs: int
    standings: list[Standing]
    values: dict[str, dict[str, np.ndarray]] = field(repr=False)
    share: float = 1.0
    other: str = ""
    page: str = ""

    @property
    def rows(self) -> dict[str, Standing]:
        """Its rows by name."""
        return {s.name: s for s in self.standings}


def of_board(board: Leaderboard, standings: Sequence[Standing], page: str = "") -> SetResult:
    """From a leaderboard whose dataset is here."""
    values = {s.name: _values(board.ranks(s), board.names, board.users.user) for s in standings}
    condition = Condition.of(standings[0].runs[0], standings[0].row, board.dataset)
    n_users, n = board.facts["test users"], len(board.users)
    share, other = condition.share, condition.other
    return SetResult(board.dataset, board.names, board.score, n_users, n, list(standings), values, share, other, page)


def of_stored(board: StoredBoard, rows: Iterable[str] = (), page: str = "") -> SetResult:
    """From stored runs; of the `rows` alone, if any are given."""
    wanted = set(rows)
    standings = [s for s in board.standings if not wanted or s.name in wanted]
    board.check_users(standings)
    values, users = {}, np.zeros(0, dtype=np.int32)
    for s in standings:
        users, ranks = board.ranks(s)
        values[s.name] = _values(ranks, board.names, users)
    n_users, condition = len(np.unique(users)), board.condition
    return SetResult(
        board.dataset, board.names, board.score, n_users, len(users), standings, values,
        condition.share, condition.other, page,
    )  # fmt: skip


def _values(ranks: np.ndarray, names: Sequence[str], users: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for name in names:
        metric, _, k = name.partition("@")
        found[name] = per_user(ranks, metric, int(k), users)
    return found


@dataclass(frozen=True)
class Test:
    """One row against another on one dataset, in one metric."""

    __test__ = False  # for pytest: no test class

    place: int  # of the `SetResult`
    row: str
    base: str
    metric: str


def tests_of(results: Sequence[SetResult], against: Sequence[str]) -> dict[Test, Comparison]:
    """Each row against those of `against`, and against the row that it is a variant of, on each dataset, in each metric.

    One correction (Holm) for all of them.
    """
    tests, pairs = [], []
    for place, result in enumerate(results):
        rows = result.rows
        for name, standing in rows.items():
            for base in dict.fromkeys([*against, standing.row.of]):
                if base in rows and base != name:
                    for metric in result.names:
                        tests.append(Test(place, name, base, metric))
                        pairs.append((result.values[name][metric], result.values[base][metric]))
    return dict(zip(tests, compare_all(pairs), strict=True))


@dataclass(frozen=True)
class Tally:
    """A row against another over all datasets that have both.

    Attributes
    ----------
    wins, ties, losses
        Datasets where it is above, not to be told from, and below the other, at a corrected p of `ALPHA`.
    gain
        Relative gain, the geometric mean over the datasets; nan where there is none.
    """

    wins: int
    ties: int
    losses: int
    gain: float


def tally(found: dict[Test, Comparison], row: str, base: str, metric: str) -> Tally:
    """Count what `tests_of` found."""
    mine = [c for test, c in found.items() if (test.row, test.base, test.metric) == (row, base, metric)]
    wins = sum(c.p < ALPHA and c.difference > 0 for c in mine)
    losses = sum(c.p < ALPHA and c.difference < 0 for c in mine)
    ratios = np.array([1 + c.relative for c in mine])
    whole = len(ratios) and np.all(np.isfinite(ratios)) and np.all(ratios > 0)
    gain = float(np.exp(np.log(ratios).mean()) - 1) if whole else float("nan")
    return Tally(wins, len(mine) - wins - losses, losses, gain)


def mean_ranks(results: Sequence[SetResult], metric: str) -> dict[str, float]:
    """Mean over the datasets of a row's place among the rows that every dataset has; 1 is best, equal rows share a place.

    Empty where there are not two such rows.
    """
    common = set.intersection(*(set(result.rows) for result in results)) if results else set()
    if len(common) < 2:
        return {}
    names = sorted(common)
    means = np.array([[result.rows[name].values(metric).mean() for name in names] for result in results])
    above = (means[:, None, :] > means[:, :, None]).sum(axis=2)  # [sets, rows]
    equal = (means[:, None, :] == means[:, :, None]).sum(axis=2)
    places = above + (equal + 1) / 2
    return dict(zip(names, places.mean(axis=0).tolist(), strict=True))
