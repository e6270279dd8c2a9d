"""Run what a leaderboard lacks, one finished run a file, so that a killed leaderboard goes on where it was.

Several processes may share one folder: each run is done by one of them, the others wait for it or go on with the next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from dataset_tools.common import write_text
from recbole_unisrec import quick_start, record
from recbole_unisrec.beyond import BEYOND, Recommended, beyond_metrics
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.data.feature_files import feature_paths
from recbole_unisrec.data.features import others_hint
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import TestUsers, group_metrics, read_ranks, write_ranks
from recbole_unisrec.leaderboard import rectools
from recbole_unisrec.leaderboard.checks import (
    OF_RECTOOLS,
    check_folder,
    check_mode,
    coinciding,
    refuse_ignored,
    without,
)
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.leaderboard.runs import FIRST_SEED, GROUPS, METRICS, TOPK, Run, Standing, Watcher
from recbole_unisrec.metrics import rank_metrics
from recbole_unisrec.pretrained import load_pretrained
from recbole_unisrec.registry import MODELS
from recbole_unisrec.setting_checks import check, defaults_of
from recbole_unisrec.setting_table import TABLE, DataSettings, TextSettings
from recbole_unisrec.settings import DATA_SETTINGS, build_config, known_settings

# settings that say where and how a run is made rather than what comes out; all others are part of a run's key
ELSEWHERE = {
    "seed", "data_path", "checkpoint_dir", "show_progress", "use_gpu", "gpu_id", "device", "worker", "state", "pretrained",
    "log_wandb", "wandb_project", "single_spec", "local_rank", "world_size", "nproc", "offset", "ip", "port", "recipe",
    "dataset_save_path", "dataloaders_save_path", "save_dataset", "save_dataloaders", "eval_batch_size", "log_dir",
}  # fmt: skip
SPLIT = {*DATA_SETTINGS, *(setting.name for setting in TABLE["Data"])}  # settings that the splits depend on


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
    ) -> None:
        if n_seeds < 1:
            raise UserError(f"seeds must be 1 or more, not {n_seeds}")
        self.folder, self.dataset = folder, dataset
        check_folder(folder)
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
        self._what: dict[str, tuple[dict[str, Any], list[Any]]] = {}  # what a run depends on but seed and point, by row
        self._known: dict[str, set[str]] = {}  # names of settings by model
        self._found: dict[
            tuple[str, str], Run
        ] = {}  # finished runs by row and key: settings may make two rows the same
        self._files: dict[Path, str] = {}  # digests of feature files
        self.users = self._users()

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
        nowhere = [k for k in self.overrides if models and not any(k in self._settings(model) for model in models)]
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
                self._config(row, row.points()[0], self.seeds[0])
                self.text_features(row)
        keys = {name: self._key(row, {}, self.seeds[0]) for name, row in self.rows.items() if row.model}
        known = {name: self._settings(row.model) for name, row in self.rows.items() if row.model}
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
        config = self._config(row, {}, self.seeds[0])
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

    def _users(self) -> TestUsers:
        shared = {k: v for k, v in self.overrides.items() if k in SPLIT}
        config = build_config("SASRecPacked", self.dataset, [], shared)
        quick_start.prepare(config, None, "CLS")
        dataset = SequenceDataset(config)
        dataset.build()
        if not len(dataset.split.valid) or not len(dataset.split.test):
            raise UserError("a leaderboard chooses on validation and compares on test; take a split that has both")
        self._popularity = dataset.item_popularity()
        self._split, self._tokens = dataset.split, dataset.field2id_token[dataset.uid_field]
        self.facts = {
            "users": dataset.user_num - 1,
            "items": dataset.item_num - 1,
            "training pairs": len(dataset.split.train),
            "test users": len(dataset.split.test.user.unique()),
        }
        if len(dataset.split.test) > self.facts["test users"]:
            self.facts["items to find"] = len(dataset.split.test)
        digest = hashlib.sha256("\n".join(dataset.field2id_token[dataset.iid_field]).encode())
        for part in dataset.split.parts:
            order = part.target.argsort()  # which pairs there are, not in which order
            for array in (part.items, part.user[order], part.start[order], part.target[order]):
                digest.update(array.numpy().tobytes())
        self._data_digest = digest.hexdigest()
        return TestUsers.of(dataset)

    def _settings(self, model: str) -> set[str]:
        if model not in self._known:
            self._known[model] = known_settings(model, self.dataset)
        return self._known[model]

    def _config(self, row: Row, point: dict[str, Any], seed: int) -> Any:
        shared = {k: v for k, v in self.overrides.items() if k in self._settings(row.model)}
        settings = {**shared, **row.settings, **point, "seed": seed}
        if row.pretrained:
            settings["pretrained"] = self.checkpoints[row.pretrained][0]
        return build_config(row.model, self.dataset, [], settings)

    def _key(self, row: Row, point: dict[str, Any], seed: int) -> str:
        """Digest of what a result depends on: data, text features, pre-trained weights and every setting that is set."""
        if row.name not in self._what:
            settings, parts = {}, [row.package or row.model, self.topk, self._data_digest]
            if row.model:
                config = self._config(row, {}, seed)
                found = record.plain(config.final_config_dict)
                usual = defaults_of(row.model)  # so that a new setting leaves the runs of before as they are
                settings = {
                    k: v
                    for k, v in found.items()
                    if k not in ELSEWHERE and v is not None and (k not in usual or v != usual[k])
                }
                if settings.get("plm_suffix"):
                    folder = Path(DataSettings.from_config(config).data_path)
                    files = [
                        *feature_paths(folder, self.dataset, settings["plm_suffix"]),
                        folder / f"{self.dataset}.item2index",
                    ]
                    parts.append([self._file_digest(file) for file in files])
            if row.pretrained:
                parts.append(self.checkpoints[row.pretrained][1])
            self._what[row.name] = (settings, parts)
        settings, parts = self._what[row.name]
        text = json.dumps([*parts, {**settings, **point}, seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _file_digest(self, file: Path) -> str:
        if file not in self._files:
            if not file.is_file():
                return "missing"
            with open(file, "rb") as content:
                self._files[file] = hashlib.file_digest(content, "sha256").hexdigest()
        return self._files[file]

    def json_file(self, name: str, key: str) -> Path:
        """File of a finished run."""
        return self.folder / "runs" / name / f"{key}.json"

    def ranks_file(self, name: str, key: str) -> Path:
        """File with the ranks of the test users of a run."""
        return self.json_file(name, key).with_suffix(".npz")

    def find(self, row: Row, point: dict[str, Any], seed: int) -> Run | None:
        """A finished run.

        Raises
        ------
        UserError
            If its file is damaged.
        """
        key = self._key(row, point, seed)
        if (row.name, key) in self._found:  # a finished run does not change
            return replace(self._found[row.name, key], point=point)
        file = self.json_file(row.name, key)
        if not file.is_file() or not self.ranks_file(row.name, key).is_file():
            return None
        try:
            run = Run(**json.loads(file.read_text(encoding="utf-8")))
            if run.key != key or not {*self.names, *self.beyond_names} <= set(run.test):
                raise ValueError("it is of another run")
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); delete it and run again") from error
        self._found[row.name, key] = run
        return replace(run, point=point)  # a value that was tuned and the same by default are one run

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
        key = self._key(row, point, seed)
        work = self.folder / "running" / f"{row.name}-{key}"
        work.parent.mkdir(parents=True, exist_ok=True)
        try:
            # held by the process, so that it falls open when the process dies
            with FileLock(f"{work}.lock", timeout=-1 if wait else 0):
                if found := self.find(row, point, seed):  # made while we waited
                    return found, True
                shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
                made = self._train(row, key, point, seed, work, tell) if row.model else self._popular(row, key, seed)
                shutil.rmtree(work, ignore_errors=True)
                write_text(self.json_file(row.name, key), json.dumps(asdict(made), indent=1) + "\n")
                return made, False
        except Timeout:
            return None, False

    def _train(
        self, row: Row, key: str, point: dict[str, Any], seed: int, work: Path, tell: Callable[[str], None]
    ) -> Run:
        config = self._config(row, point, seed)
        config["checkpoint_dir"] = str(work)
        result = rectools.train(config, tell) if row.package else quick_start.train(config, tell=tell)
        write_ranks(self.ranks_file(row.name, key), *read_ranks(result.ranks))
        return Run(
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

    def _popular(self, row: Row, key: str, seed: int) -> Run:
        """Everybody is shown what is most frequent in training."""
        started = time.perf_counter()
        order = np.lexsort((np.arange(len(self._popularity)), -self._popularity.numpy()))
        order = order[order != 0]
        rank = self._popularity.new_zeros(len(self._popularity))
        rank[order] = self._popularity.new_tensor(range(1, len(order) + 1))
        found = {}
        for part in ("valid", "test"):
            pairs = getattr(self._split, part)
            found[part] = (pairs.user, rank[pairs.items[pairs.target]])
        users, ranks = found["test"]
        tokens = self._tokens[users.numpy()].astype(str)
        order = np.lexsort((self._split.test.target.numpy(), tokens))
        write_ranks(self.ranks_file(row.name, key), tokens[order], ranks.numpy()[order])
        metrics = {part: dict(rank_metrics(r, METRICS, self.topk)) for part, (_, r) in found.items()}
        if self.beyond:
            recommended = Recommended(len(self._popularity), self.topk)
            scores = -rank.double().unsqueeze(0)
            scores[:, 0] = -torch.inf
            recommended.add(scores)
            train = self._split.train
            taken = torch.bincount(train.items[train.target], minlength=len(rank))
            # one list for everybody
            same = beyond_metrics(recommended, self.beyond, taken, self.overrides.get("tail_ratio"))
            metrics = {part: {**values, **same} for part, values in metrics.items()}
        return Run(
            row=row.name,
            key=key,
            seed=seed,
            point={},
            valid=metrics["valid"],
            test=metrics["test"],
            valid_score=metrics["valid"][self.score],
            groups={
                kind: group_metrics(ranks.numpy()[order], getattr(self.users, kind), bounds, METRICS, self.topk)
                for kind, bounds in GROUPS.items()
            },
            curve=[],
            seconds=time.perf_counter() - started,
            n_parameters=0,
            config=record.plain({"dataset": self.dataset, **self.overrides}),  # which data; it has no other settings
            versions=record.versions(),
        )

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
        if not any((self.folder / "runs" / row.name).glob("*.json")):
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
        found = []
        for run in standing.runs:
            file = self.ranks_file(standing.name, run.key)
            users, ranks = read_ranks(file)
            order = np.argsort(users, kind="stable")
            if not np.array_equal(users[order], self.users.user):
                raise UserError(f"{file} has other users than {self.dataset}; delete it and run again")
            found.append(ranks[order])
        return np.stack(found)


def weights_digest(path: str) -> str:
    """Digest of the weights of a pre-trained model, which tells two checkpoints of one name apart."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_pretrained(path)[0].items()):
        digest.update(name.encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()
