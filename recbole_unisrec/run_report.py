"""Evaluate the best epoch of a run, by groups of users too, and write down what came out."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from recbole.config import Config

from dataset_tools.common import write_text
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import LENGTH, POPULARITY, TestUsers, group_metrics, user_ranks, write_ranks
from recbole_unisrec.fitting import Data, parameters_of, shows_progress
from recbole_unisrec.metrics import RANK_METRICS
from recbole_unisrec.record import plain, versions
from recbole_unisrec.run_result import Result
from recbole_unisrec.safe_load import safe_torch_load
from recbole_unisrec.setting_table import (
    AdaptorSettings,
    DataSettings,
    EvaluationSettings,
    RunSettings,
    TrainingSettings,
)
from recbole_unisrec.settings import DATA_SETTINGS, build_config


def evaluate(
    config: Config, data: Data, trainer: Any, epochs: list[dict[str, float]], seconds: float, checksum: str = ""
) -> Result:
    """Evaluate the best epoch, and write the JSON beside the checkpoint.

    Parameters
    ----------
    config, data, trainer
        As in `train`.
    epochs
        From `fit`.
    seconds
        How long training took; evaluation is added.
    checksum
        Of what was learned from (`Result.data`).
    """
    started = time.perf_counter()
    load_weights(trainer)
    run, training = RunSettings.from_config(config), TrainingSettings.from_config(config)
    progress = shows_progress(run, trainer)
    test, valid = (
        trainer.evaluate(part, load_best_model=False, show_progress=progress) or {} for part in (data.test, data.valid)
    )
    rank_file, groups = "", {}
    if data.test:
        tokens, ranks = user_ranks(trainer, data.test)
        rank_file = f"{Path(trainer.saved_model_file).with_suffix('')}.ranks.npz"
        write_ranks(rank_file, tokens, ranks)
        groups = groups_of(users_of(config, data.dataset), tokens, ranks, config)
    best = max(epochs, key=lambda e: (e["valid_score"], e["epoch"]), default={"epoch": -1})
    if epochs and trainer.best_valid_score > best["valid_score"]:  # as it was before training, see `PackedTrainer.fit`
        best = {"epoch": -1}
    result = Result(
        model=run.model,
        dataset=run.dataset,
        train_stage=AdaptorSettings.from_config(config).train_stage if run.model == "UniSRec" else None,
        seed=training.seed,
        valid=dict(valid),
        test=dict(test),
        epochs=epochs,
        best_epoch=int(best["epoch"]),
        seconds=seconds + time.perf_counter() - started,
        groups=groups,
        checkpoint=str(trainer.saved_model_file),
        ranks=rank_file,
        n_parameters=parameters_of(trainer.model),
        versions=versions(),
        config=plain(config.final_config_dict),
        data=checksum,
        path_start=getattr(trainer, "path_start", None),
    )
    write_text(Path(result.checkpoint).with_suffix(".json"), json.dumps(asdict(result), indent=1) + "\n")
    return result


def users_of(config: Config, dataset: Any = None) -> TestUsers:
    """The test users of a dataset, whichever model the configuration is of."""
    if isinstance(dataset, SequenceDataset):
        return TestUsers.of(dataset)
    settings = {name: config[name] for name in DATA_SETTINGS if config[name] is not None}
    data = DataSettings.from_config(config)
    folder = Path(data.data_path)
    plain_config = build_config("SASRecPacked", data.dataset, [], {**settings, "data_path": str(folder.parent)})
    plain_dataset = SequenceDataset(plain_config)
    plain_dataset.build()
    return TestUsers.of(plain_dataset)


def groups_of(users: TestUsers, tokens: Any, ranks: Any, config: Config) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics by group, of those test users that the model ranked.

    Raises
    ------
    UserError
        If the model was asked to find other items than these users have.
    """
    rows = np.flatnonzero(np.isin(users.user, tokens))
    if not np.array_equal(users.user[rows], tokens):
        run = RunSettings.from_config(config)
        raise UserError(f"{run.model} ranked other test items than {run.dataset} splits off; use one split")
    evaluation = EvaluationSettings.from_config(config)
    metrics = [m for m in (m.lower() for m in evaluation.metrics) if m in RANK_METRICS]
    kinds = {"popularity": (users.popularity, POPULARITY), "length": (users.length, LENGTH)}
    return {
        kind: group_metrics(ranks, values[rows], bounds, metrics, evaluation.topk)
        for kind, (values, bounds) in kinds.items()
    }


def load_weights(trainer: Any) -> None:
    """The weights of the best epoch (of the last, where there is no validation)."""
    if hasattr(trainer, "load_weights"):
        trainer.load_weights(trainer.saved_model_file)
        return
    saved = safe_torch_load(trainer.saved_model_file, map_location=trainer.device)
    trainer.model.load_state_dict(saved["state_dict"])
    trainer.model.load_other_parameter(saved.get("other_parameter"))
