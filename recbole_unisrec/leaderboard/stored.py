"""Boards read back from stored runs alone, without their datasets: a run tells which data it learned from.

Runs lie in the folder of a leaderboard, or in one file that was made of it (see `archive`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_unisrec.errors import UserError
from recbole_unisrec.leaderboard.archive import ENDING, StoredRun, read_archive, run_of
from recbole_unisrec.leaderboard.keys import ELSEWHERE
from recbole_unisrec.leaderboard.rows import ROWS, Row, rows_of
from recbole_unisrec.leaderboard.runs import Run, Standing
from recbole_unisrec.leaderboard.store import ranks_by_user

LEAVE_ONE_OUT = {"LS": "valid_and_test"}


@dataclass(frozen=True)
class Condition:
    """The data of a run: dataset, share of its users learned from (0: nothing was trained on it), and what else is unusual."""

    dataset: str
    share: float = 1.0
    other: str = ""

    @classmethod
    def of(cls, run: Run, row: Row, folder: str) -> Condition:
        """From a run's settings; `folder` is the dataset where they do not tell."""
        config = run.config
        share = 0.0 if row.seeded and row.model and config.get("epochs") == 0 else float(config.get("train_users") or 1)
        other = []
        if config.get("cold_items"):
            other.append(f"cold_items {config['cold_items']:g} {config.get('cold_by') or 'random'}")
        split = (config.get("eval_args") or {}).get("split") or LEAVE_ONE_OUT
        if split != LEAVE_ONE_OUT and not config.get("benchmark_filename"):
            other.append(f"split {json.dumps(split)}")
        return cls(str(config.get("dataset") or folder), share, ", ".join(other))

    def __str__(self) -> str:
        share = "" if self.share == 1 else "without training" if self.share == 0 else f"{self.share:.3g} of the users"
        return ", ".join(part for part in (self.dataset, share, self.other) if part)


class StoredBoard:
    """The stored runs of one condition, row by row.

    Of a row that was run with several settings (a grid, or other settings for all rows) those are taken whose first seed is
    best on validation, with all seeds that have them.

    Attributes
    ----------
    condition, dataset
        The data.
    topk, names, score
        Cut-offs, test metrics, and the one that chooses on validation.
    standings
        One for each row, in the order of `rows.ROWS`.
    """

    def __init__(self, condition: Condition, found: Sequence[StoredRun]) -> None:
        self.condition, self.dataset = condition, condition.dataset
        metrics = set.intersection(*(set(stored.run.test) for stored in found))
        self.topk = sorted({int(name.partition("@")[2]) for name in metrics if name.startswith("ndcg@")})
        self.names = [f"{metric}@{k}" for k in self.topk for metric in ("hit", "ndcg")]
        self.score = f"ndcg@{self.topk[0]}"
        self._stored = {(stored.run.row, stored.run.key): stored for stored in found}
        by_row: dict[str, list[Run]] = defaultdict(list)
        for stored in found:
            by_row[stored.run.row].append(stored.run)
        order = {name: i for i, name in enumerate(ROWS)}
        names = sorted(by_row, key=lambda name: (order.get(name.partition("@")[0], len(order)), name))
        self.standings = [standing_of(row_named(name, by_row[name][0]), by_row[name]) for name in names]

    def ranks(self, standing: Standing) -> tuple[np.ndarray, np.ndarray]:
        """Whose the items to find are, [P], and their ranks for each seed, [S, P].

        Raises
        ------
        UserError
            If the runs ranked different users.
        """
        stored = [self._stored[standing.name, run.key] for run in standing.runs]
        for one in stored[1:]:
            self._same_users(stored[0], one)
        return stored[0].ranks[0], np.stack([one.ranks[1] for one in stored])

    def check_users(self, standings: Sequence[Standing]) -> None:
        """Raise `UserError` if two of these rows ranked different users, and so cannot be compared."""
        first = [self._stored[s.name, s.runs[0].key] for s in standings]
        for one in first[1:]:
            self._same_users(first[0], one)

    def _same_users(self, a: StoredRun, b: StoredRun) -> None:
        if a.users != b.users:
            raise UserError(
                f"{a.where} and {b.where} ranked other users, so they cannot be compared; keep runs of one dataset together"
            )


def row_named(name: str, run: Run) -> Row:
    """The row of that name, or one that stands for it where this version has none."""
    try:
        return rows_of([name])[name]
    except UserError:
        return Row(name, str(run.config.get("model", "")), about="not a row of this version")


def standing_of(row: Row, runs: Iterable[Run]) -> Standing:
    """The runs of one row as a `Standing`; see `StoredBoard` for the choice."""
    alike: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        settings = {k: v for k, v in run.config.items() if k not in ELSEWHERE or k == "pretrained"}
        of_seed = alike[json.dumps(settings, sort_keys=True)]
        if run.seed not in of_seed or run.valid_score > of_seed[run.seed].valid_score:
            of_seed[run.seed] = run
    first = min(seed for of_seed in alike.values() for seed in of_seed)
    groups = [of_seed for of_seed in alike.values() if first in of_seed]
    groups.sort(key=lambda of_seed: json.dumps(of_seed[first].point, sort_keys=True))
    best = max(groups, key=lambda of_seed: of_seed[first].valid_score)
    return Standing(row.name, row, [of_seed[first] for of_seed in groups], [best[seed] for seed in sorted(best)])


# --- reading


def is_stored(path: Path) -> bool:
    """Whether a path is the folder of a leaderboard that has finished runs, or a file of runs."""
    return path.name.endswith(ENDING) or any((path / "runs").glob("*/*.json"))


def read_runs(path: Path) -> list[StoredRun]:
    """All finished runs of a leaderboard's folder or of a file.

    Raises
    ------
    UserError
        If there are none, or one is damaged.
    """
    if path.is_file():
        found = read_archive(path)
    else:
        found = [_read_run(file) for file in sorted((path / "runs").glob("*/*.json"))]
    if not found:
        raise UserError(f"{path} has no finished run; give the folder of a leaderboard, or a file *{ENDING}")
    return found


def read_boards(paths: Iterable[Path]) -> list[StoredBoard]:
    """All runs in these folders and files, one board for each condition of the data.

    Raises
    ------
    UserError
        As `read_runs`.
    """
    by: dict[Condition, list[StoredRun]] = defaultdict(list)
    for path in paths:
        folder = path.name.removesuffix(ENDING)
        for stored in read_runs(path):
            by[Condition.of(stored.run, row_named(stored.run.row, stored.run), folder)].append(stored)
    return [StoredBoard(condition, found) for condition, found in by.items()]


def _read_run(file: Path) -> StoredRun:
    try:
        run = run_of(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it and run again") from error

    return StoredRun(run, str(file), lambda: ranks_by_user(file.with_suffix(".npz")))
