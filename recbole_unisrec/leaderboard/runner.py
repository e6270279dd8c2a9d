"""Run what a leaderboard lacks, one finished run a file, so that a killed leaderboard goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import write_text
from recbole_unisrec import quick_start
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import POPULARITY, TestUsers, group_metrics, read_ranks, write_ranks
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.metrics import rank_metrics
from recbole_unisrec.pretrain.checkpoint import load_pretrained
from recbole_unisrec.settings import build_config

METRICS = ("hit", "ndcg")
TOPK = (10, 50)
NAMES = [f"{metric}@{k}" for k in TOPK for metric in METRICS]
FIRST_SEED = 2020


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
    curve: list[float]
    seconds: float
    n_parameters: int
    config: dict[str, Any] = field(repr=False, default_factory=dict)
    versions: dict[str, str] = field(repr=False, default_factory=dict)


@dataclass
class Standing:
    """The runs of one row: those of the tuning, and one for each seed with the chosen grid point."""

    name: str
    row: Row
    tuning: list[Run]
    runs: list[Run]

    @property
    def chosen(self) -> dict[str, Any]:
        """The grid point that was best on validation."""
        return self.runs[0].point if self.runs else {}

    def values(self, metric: str) -> np.ndarray:
        """Test metric of each seed, float64 [S]."""
        return np.array([run.test[metric] for run in self.runs])


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
    ) -> None:
        if n_seeds < 1:
            raise UserError(f"seeds must be 1 or more, not {n_seeds}")
        self.folder, self.dataset = folder, dataset
        self.seeds = [FIRST_SEED + i for i in range(n_seeds)]
        self.rows = rows
        self.overrides = {"topk": list(TOPK), "metrics": ["HIT", "NDCG"], "valid_metric": "NDCG@10", **overrides}
        self.pretrained = self._pretrained(self.overrides.pop("pretrained", None))
        self.tuned = tuned
        self.users = self._users()
        for name, row in rows.items():  # mistakes in settings show before the first hour, not after it
            if row.model:
                self._config(row, row.points()[0], self.seeds[0])
            (folder / "runs" / name).mkdir(parents=True, exist_ok=True)

    def _pretrained(self, path: str | None) -> dict[str, str]:
        """The checkpoint and the sum of its weights, which tells runs of two checkpoints of one name apart."""
        asking = [name for name, row in self.rows.items() if row.pretrained]
        if asking and not path:
            raise UserError(f"row {asking[0]} starts from a pre-trained model; give --pretrained=FILE")
        if not path:
            return {}
        digest = hashlib.sha256()
        for name, tensor in sorted(load_pretrained(path)[0].items()):
            digest.update(name.encode() + tensor.float().numpy().tobytes())
        return {"path": str(path), "sha256": digest.hexdigest()}

    def _users(self) -> TestUsers:
        shared = {k: v for k, v in self.overrides.items() if k in ("data_path", "MAX_ITEM_LIST_LENGTH", "cold_items")}
        config = build_config("SASRecPacked", self.dataset, [], shared)
        dataset = SequenceDataset(config)
        dataset.build()
        self._popularity = dataset.item_popularity()
        self._split, self._tokens = dataset.split, dataset.field2id_token[dataset.uid_field]
        self.facts = {
            "users": dataset.user_num - 1,
            "items": dataset.item_num - 1,
            "training pairs": len(dataset.split.train),
            "test users": len(dataset.split.test),
        }
        return TestUsers.of(dataset)

    def _config(self, row: Row, point: dict[str, Any], seed: int) -> Any:
        settings = {**self.overrides, **row.settings, **point, "seed": seed}
        if row.pretrained:
            settings["pretrained"] = self.pretrained["path"]
        return build_config(row.model, self.dataset, [], {k: v for k, v in settings.items() if v is not None})

    def _key(self, row: Row, point: dict[str, Any], seed: int) -> str:
        parts = [row.model, row.settings, point, seed, self.overrides, self.facts]
        if row.pretrained:
            parts.append(self.pretrained["sha256"])
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def _file(self, name: str, key: str) -> Path:
        return self.folder / "runs" / name / f"{key}.json"

    def run(self, name: str, point: dict[str, Any], seed: int) -> tuple[Run, bool]:
        """One run, and whether it was there already."""
        row = self.rows[name]
        key = self._key(row, point, seed)
        file = self._file(name, key)
        if file.is_file() and self.ranks_file(name, key).is_file():
            try:
                return Run(**json.loads(file.read_text(encoding="utf-8"))), True
            except (ValueError, TypeError) as error:
                raise UserError(f"{file} is damaged ({error}); delete it and run again") from error
        run = self._train(name, row, key, point, seed) if row.model else self._popular(name, key, seed)
        write_text(file, json.dumps(asdict(run), indent=1) + "\n")
        return run, False

    def ranks_file(self, name: str, key: str) -> Path:
        """File with the ranks of the test users of a run."""
        return self.folder / "runs" / name / f"{key}.npz"

    def _train(self, name: str, row: Row, key: str, point: dict[str, Any], seed: int) -> Run:
        config = self._config(row, point, seed)
        config["checkpoint_dir"] = str(self.folder / "checkpoints")
        result = quick_start.train(config)
        write_ranks(self.ranks_file(name, key), *read_ranks(result.ranks))
        for leftover in (result.checkpoint, result.ranks, str(Path(result.checkpoint).with_suffix(".json"))):
            Path(leftover).unlink(missing_ok=True)
        return Run(
            row=name,
            key=key,
            seed=seed,
            point=point,
            valid=result.valid,
            test=result.test,
            valid_score=result.valid["ndcg@10"],
            curve=[epoch["valid_score"] for epoch in result.epochs],
            seconds=result.seconds,
            n_parameters=result.n_parameters,
            config=result.config,
            versions=result.versions,
        )

    def _popular(self, name: str, key: str, seed: int) -> Run:
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
        write_ranks(self.ranks_file(name, key), self._tokens[users.numpy()].astype(str), ranks.numpy())
        metrics = {part: dict(rank_metrics(r, METRICS, TOPK)) for part, (_, r) in found.items()}
        seconds = time.perf_counter() - started
        return Run(
            name, key, seed, {}, metrics["valid"], metrics["test"], metrics["valid"]["ndcg@10"], [], seconds, 0,
            versions=quick_start.versions(),
        )  # fmt: skip

    def fill(self, say: Callable[[str], None] = quick_start.say) -> Iterator[Standing]:
        """Run what is missing; gives each row when it is complete."""
        for name, row in self.rows.items():
            points = row.points() if name in self.tuned else [{}]
            tuning = []
            for point in points:
                run, known = self.run(name, point, self.seeds[0])
                tuning.append(run)
                said = ", ".join(f"{k} {v}" for k, v in point.items()) or "one setting"
                say(f"{name}: {said}, valid NDCG@10 {run.valid_score:.4f}{' (from before)' if known else ''}")
            best = max(tuning, key=lambda run: run.valid_score)
            runs = [best]
            seeds = self.seeds[1:] if row.model else []  # popularity draws nothing
            for seed in seeds:
                run, known = self.run(name, best.point, seed)
                runs.append(run)
                say(
                    f"{name}: seed {seed}, test NDCG@10 {run.test['ndcg@10']:.4f}{' (from before)' if known else ''}"
                )
            yield Standing(name, row, tuning, runs)

    def ranks(self, standing: Standing) -> np.ndarray:
        """Ranks of all test users for each seed, int64 [S, U], in the order of ``self.users``.

        Raises
        ------
        UserError
            If a run ranked other users than the dataset has.
        """
        found = []
        for run in standing.runs:
            file = self.ranks_file(standing.name, run.key)
            users, ranks = read_ranks(file)
            order = np.argsort(users)
            if not np.array_equal(users[order], self.users.user):
                raise UserError(f"{file} has other users than {self.dataset}; delete it and run again")
            found.append(ranks[order])
        return np.stack(found)

    def groups(self, ranks: np.ndarray) -> dict[str, dict[str, float]]:
        """Metrics by popularity of the target, all seeds together."""
        values = np.tile(self.users.popularity, len(ranks))
        return group_metrics(ranks.reshape(-1), values, POPULARITY, METRICS, TOPK)
