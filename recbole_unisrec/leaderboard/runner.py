"""Run what a leaderboard lacks, one finished run a file, so that a killed leaderboard goes on where it was.

Several processes may share one folder: each run is done by one of them, the others wait for it or go on with the next.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from dataset_tools.common import check_writable
from recbole_unisrec import quick_start, record
from recbole_unisrec.beyond import BEYOND
from recbole_unisrec.data.feature_files import feature_paths
from recbole_unisrec.data.features import others_hint
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import read_ranks
from recbole_unisrec.leaderboard import rectools
from recbole_unisrec.leaderboard.checks import (
    OF_RECTOOLS,
    check_mode,
    coinciding,
    refuse_ignored,
    without,
)
from recbole_unisrec.leaderboard.ground import popular, read_ground
from recbole_unisrec.leaderboard.keys import Keys, weights_digest
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.leaderboard.runs import FIRST_SEED, METRICS, TOPK, Run, Standing, Watcher
from recbole_unisrec.leaderboard.store import RunStore
from recbole_unisrec.registry import MODELS, PACKED
from recbole_unisrec.setting_checks import check
from recbole_unisrec.setting_table import DataSettings, TextSettings
from recbole_unisrec.settings import build_config


class Leaderboard:
    """All runs of one dataset, kept in a folder.

    Parameters
    ----------
    folder
        Where runs, ranks and the report lie.
    dataset
        Name of the dataset.
    rows
        What to compare.
    n_seeds
        Seeds for each row.
    overrides
        Settings for all rows.
    tuned
        Rows whose grids are tried; of the others the property files' values are taken.
    checkpoints
        Pre-trained models by name, for the rows that start from one.
    resume
        Go on with runs that were cut off, from their last epoch; else they start anew.

    Raises
    ------
    UserError
        If the dataset is missing, a setting is unknown, or a row needs a pre-trained model and none is given.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        rows: dict[str, Row],
        n_seeds: int,
        overrides: dict[str, Any],
        tuned: list[str],
        checkpoints: dict[str, str] | None = None,
        resume: bool = False,
    ) -> None:
        if n_seeds < 1:
            raise UserError(f"seeds must be 1 or more, not {n_seeds}")
        self.folder, self.dataset, self.resume = folder, dataset, resume
        check_writable(folder, "choose another --out")
        self.seeds = [FIRST_SEED + i for i in range(n_seeds)]
        self.rows, self.tuned = rows, tuned
        topk = overrides.get("topk", TOPK)
        check("topk", topk, "UniSRec")
        check_mode(overrides.get("eval_args"))
        self.topk = sorted({topk} if isinstance(topk, int) else set(topk))
        self.names = [f"{metric}@{k}" for k in self.topk for metric in METRICS]
        asked = overrides.get("metrics") or []
        self.beyond = [m.lower() for m in ([asked] if isinstance(asked, str) else asked) if str(m).lower() in BEYOND]
        self.score = f"ndcg@{self.topk[0]}"
        self.given = overrides
        self.overrides = {
            **overrides, "topk": self.topk, "metrics": [m.upper() for m in (*METRICS, *self.beyond)],
            "valid_metric": self.score.upper(),
        }  # fmt: skip
        self.checkpoints = {name: (path, weights_digest(path)) for name, path in (checkpoints or {}).items()}
        self.store = RunStore(folder, {*self.names, *self.beyond_names})
        self.ground = read_ground(dataset, self.overrides)
        self.users, self.facts = self.ground.users, self.ground.facts
        self.keys = Keys(dataset, self.topk, self.overrides, self.checkpoints, self.ground.digest)

    @property
    def beyond_names(self) -> list[str]:
        """Metrics beyond accuracy that were asked for, at each cut-off."""
        return [f"{metric}@{k}" for metric in self.beyond for k in self.topk]

    def refuse_ignored(self) -> None:
        """Raise `UserError` if a setting for all rows would not hold for one of them."""
        refuse_ignored(self.rows, self.tuned, self.given, self.score)

    def check(self) -> list[str]:
        """Find mistakes in the settings before the first hour, not after it; gives what is to be said of them."""
        models = {row.model for row in self.rows.values() if row.model}
        nowhere = [k for k in self.overrides if models and not any(k in self.keys.known(model) for model in models)]
        for row in self.rows.values():
            if row.model and nowhere:  # let the settings say what was meant
                build_config(row.model, self.dataset, [], {k: self.overrides[k] for k in nowhere})
            if row.pretrained and row.pretrained not in self.checkpoints:
                raise UserError(
                    f"row {row.name} starts from a pre-trained model; give --pretrained={row.pretrained}=FILE"
                )
            if row.package:
                rectools.check_installed()
            if row.model:
                self.keys.config(row, row.points()[0], self.seeds[0])
                self.text_features(row)
        keys = {name: self.keys.key(row, {}, self.seeds[0]) for name, row in self.rows.items() if row.model}
        known = {name: self.keys.known(row.model) for name, row in self.rows.items() if row.model}
        for name in known:
            if self.rows[name].package:
                known[name] = known[name] & OF_RECTOOLS
        return [*without(known, self.rows, self.tuned, self.given), *coinciding(keys)]

    def text_features(self, row: Row) -> list[Path]:
        """Files with the features that a row reads; the embedded dataset makes its own.

        Raises
        ------
        UserError
            If it is missing.
        """
        config = self.keys.config(row, {}, self.seeds[0])
        if row.model not in MODELS or not MODELS[row.model].reads_text:
            return []
        folder = Path(DataSettings.from_config(config).data_path)
        files = feature_paths(folder, self.dataset, TextSettings.from_config(config).plm_suffix)
        pooling = "Mean" if files[0].name.endswith("Mean") else "CLS"
        quick_start.prepare(config, None, pooling)
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"row {row.name} reads {file}, which does not exist; {others_hint(file)}make it with `python -m "
                    f"dataset_tools.features {folder} --encoder NAME{' --pooling Mean' if pooling == 'Mean' else ''} "
                    f"--suffix {file.name.rpartition('.')[2]}`"
                )
        return files

    def find(self, row: Row, point: dict[str, Any], seed: int) -> Run | None:
        """A finished run.

        Raises
        ------
        UserError
            If its file is damaged.
        """
        return self.store.find(row.name, self.keys.key(row, point, seed), point)

    def run(
        self,
        row: Row,
        point: dict[str, Any],
        seed: int,
        wait: bool = True,
        tell: Callable[[str], None] = record.say,
    ) -> tuple[Run | None, bool]:
        """One run, and whether it was there already; None if another process is at it and we do not `wait`."""
        if found := self.find(row, point, seed):
            return found, True
        key = self.keys.key(row, point, seed)
        work = self.folder / "running" / f"{row.name}-{key}"
        work.parent.mkdir(parents=True, exist_ok=True)
        try:
            # held by the process, so that it falls open when the process dies
            with FileLock(f"{work}.lock", timeout=-1 if wait else 0):
                if found := self.find(row, point, seed):  # made while we waited
                    return found, True
                goes_on = self.resume and row.model in PACKED and not row.package and work.is_dir()
                if not goes_on:
                    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
                if row.model:
                    made = self._train(row, key, point, seed, work, tell, goes_on)
                else:
                    made = self._popular(row, key, seed)
                shutil.rmtree(work, ignore_errors=True)
                return made, False
        except Timeout:
            return None, False

    def _train(
        self,
        row: Row,
        key: str,
        point: dict[str, Any],
        seed: int,
        work: Path,
        tell: Callable[[str], None],
        goes_on: bool,
    ) -> Run:
        config = self.keys.config(row, point, seed)
        config["checkpoint_dir"] = str(work)
        result = rectools.train(config, tell) if row.package else quick_start.train(config, tell=tell, resume=goes_on)
        made = Run(
            row=row.name,
            key=key,
            seed=seed,
            point=point,
            valid=result.valid,
            test=result.test,
            valid_score=result.valid[self.score],
            groups=result.groups,
            curve=[epoch["valid_score"] for epoch in result.epochs],
            seconds=result.seconds,
            n_parameters=result.n_parameters,
            config=result.config,
            versions=result.versions,
        )
        self.store.write(made, *read_ranks(result.ranks))
        return made

    def _popular(self, row: Row, key: str, seed: int) -> Run:
        started = time.perf_counter()
        found = popular(self.ground, self.topk, self.beyond, self.overrides.get("tail_ratio"))
        made = Run(
            row=row.name,
            key=key,
            seed=seed,
            point={},
            valid=found.valid,
            test=found.test,
            valid_score=found.valid[self.score],
            groups=found.groups,
            curve=[],
            seconds=time.perf_counter() - started,
            n_parameters=0,
            config=record.plain({"dataset": self.dataset, **self.overrides}),  # which data; it has no other settings
            versions=record.versions(),
        )
        self.store.write(made, found.tokens, found.ranks)
        return made

    def fill(self, watch: Watcher) -> Iterator[Standing]:
        """Run what is missing; gives each row when it is complete."""
        for name, row in self.rows.items():
            points = row.points() if name in self.tuned else [{}]
            seeds = self.seeds[1:] if row.seeded else []
            jobs = [(point, self.seeds[0]) for point in points]
            if len(points) == 1:  # nothing to choose: the other seeds need not wait for the first
                runs = self._all(row, [*jobs, *((points[0], seed) for seed in seeds)], watch)
                tuning = runs[:1]
            else:
                tuning = self._all(row, jobs, watch)
                best = max(tuning, key=lambda run: run.valid_score)
                runs = [best, *self._all(row, [(best.point, seed) for seed in seeds], watch)]
            yield Standing(name, row, tuning, runs)

    def _all(self, row: Row, jobs: list[tuple[dict[str, Any], int]], watch: Watcher) -> list[Run]:
        """All of these runs; first those that no other process is at."""
        found: dict[int, Run] = {}
        for wait in (False, True):
            for i, (point, seed) in enumerate(jobs):
                if i in found:
                    continue
                what = ", ".join([row.name, *(f"{k} {v}" for k, v in point.items()), f"seed {seed}"])
                watch.begin(what)
                if wait and self.find(row, point, seed) is None:
                    watch.tell(f"{what}: waiting for another process that is at it")
                run, known = self.run(row, point, seed, wait, watch.tell)
                if run is not None:
                    found[i] = run
                    watch.end(what, run, known)
        return [found[i] for i in range(len(jobs))]

    def progress(self, name: str) -> str:
        """How far a row of this board is, by whatever process: ``tuning 1/3`` or ``2/5``; empty for other rows."""
        if name not in self.rows:
            return ""
        row, tuned = self.rows[name], name in self.tuned
        standing = self.finished(row, tuned)
        if standing is not None:
            return f"{len(standing.runs)}/{len(self.seeds) if row.seeded else 1}"
        points = row.points() if tuned else [{}]
        done = sum(self.find(row, point, self.seeds[0]) is not None for point in points)
        return f"tuning {done}/{len(points)}" if tuned else f"0/{len(self.seeds)}"

    def finished(self, row: Row, tuned: bool) -> Standing | None:
        """What is finished of a row, with one seed or more; None if its tuning or its first seed is missing."""
        if not self.store.has_any(row.name):
            return None
        if row.pretrained and row.pretrained not in self.checkpoints:
            return None
        points = row.points() if tuned else [{}]
        tuning = [run for point in points if (run := self.find(row, point, self.seeds[0]))]
        if len(tuning) < len(points):
            return None
        best = max(tuning, key=lambda run: run.valid_score)
        more = [self.find(row, best.point, seed) for seed in self.seeds[1:]] if row.seeded else []
        return Standing(row.name, row, tuning, [best, *(run for run in more if run)])

    def ranks(self, standing: Standing) -> np.ndarray:
        """Ranks of all items to find for each seed, int64 [S, P], in the order of ``self.users``.

        Raises
        ------
        UserError
            If a run ranked other users than the dataset has.
        """
        return self.store.ranks(standing.name, standing.runs, self.users.user, self.dataset)
