"""The folder of finished runs: ``runs/ROW/KEY.json`` with what came out, ``KEY.npz`` beside it with the ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import write_text
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import read_ranks, write_ranks
from recbole_unisrec.leaderboard.runs import Run


def ranks_by_user(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Whose each item to find is, [P] sorted, and its rank, [P], of a file that `evaluation.write_ranks` wrote."""
    users, ranks = read_ranks(file)
    order = np.argsort(users, kind="stable")
    return users[order], ranks[order]


class RunStore:
    """Reads and writes the runs of one folder.

    Parameters
    ----------
    folder
        Of the leaderboard.
    metrics
        Test metrics that every run must have.
    """

    def __init__(self, folder: Path, metrics: Iterable[str]) -> None:
        self.folder, self.metrics = folder, set(metrics)
        self._found: dict[tuple[str, str], Run] = {}  # by row and key: settings may make two rows the same

    def json_file(self, name: str, key: str) -> Path:
        """File of a finished run."""
        return self.folder / "runs" / name / f"{key}.json"

    def ranks_file(self, name: str, key: str) -> Path:
        """File with the ranks of the test users of a run."""
        return self.json_file(name, key).with_suffix(".npz")

    def has_any(self, name: str) -> bool:
        """Whether a row has a finished run."""
        return any((self.folder / "runs" / name).glob("*.json"))

    def find(self, name: str, key: str, point: dict[str, Any]) -> Run | None:
        """A finished run.

        Raises
        ------
        UserError
            If its file is damaged.
        """
        if (name, key) in self._found:  # a finished run does not change
            return replace(self._found[name, key], point=point)
        file = self.json_file(name, key)
        if not file.is_file() or not self.ranks_file(name, key).is_file():
            return None
        try:
            run = Run(**json.loads(file.read_text(encoding="utf-8")))
            if run.key != key or not self.metrics <= set(run.test):
                raise ValueError("it is of another run")
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); delete it and run again") from error
        self._found[name, key] = run
        return replace(run, point=point)  # a value that was tuned and the same by default are one run

    def write(self, run: Run, users: np.ndarray, ranks: np.ndarray) -> None:
        """Store a run; its JSON comes last, and only then it is finished."""
        write_ranks(self.ranks_file(run.row, run.key), users, ranks)
        write_text(self.json_file(run.row, run.key), json.dumps(asdict(run), indent=1) + "\n")

    def ranks(self, name: str, runs: Iterable[Run], users: np.ndarray, dataset: str) -> np.ndarray:
        """Ranks of all items to find for each run, int64 [S, P], in the order of `users`.

        Raises
        ------
        UserError
            If a run ranked other users than the dataset has.
        """
        found = []
        for run in runs:
            file = self.ranks_file(name, run.key)
            theirs, ranks = ranks_by_user(file)
            if not np.array_equal(theirs, users):
                raise UserError(f"{file} has other users than {dataset}; delete it and run again")
            found.append(ranks)
        return np.stack(found)
