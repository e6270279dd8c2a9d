"""Train and evaluate one model on one dataset: dataset, model, trainer, report."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed
from torch.nn import Module

from dataset_tools.common import check_writable
from recbole_unisrec import unfinished
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.data.download import fetch_dataset
from recbole_unisrec.data.make_features import make_features
from recbole_unisrec.errors import UserError
from recbole_unisrec.fitting import Data, fit
from recbole_unisrec.memory import keep_freed_memory
from recbole_unisrec.metrics import RANK_METRICS
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.trim import trim_padding
from recbole_unisrec.record import say, start_logging
from recbole_unisrec.registry import MODELS, PACKED, SEQUENCES_ONLY
from recbole_unisrec.run_report import evaluate, groups_of
from recbole_unisrec.run_result import Result, table
from recbole_unisrec.run_state import locked
from recbole_unisrec.setting_table import DataSettings, EvaluationSettings, RunSettings, TrainingSettings
from recbole_unisrec.settings import model_class, reads_our_dataset
from recbole_unisrec.trainer import PackedTrainer, own_name
from recbole_unisrec.unfinished import RunFolder

__all__ = [
    "Data",
    "Result",
    "evaluate",
    "fit",
    "groups_of",
    "make_data",
    "make_model",
    "make_trainer",
    "prepare",
    "table",
    "train",
]


def prepare(config: Config, encoder: str | None, pooling: str | None, progress: bool = True) -> None:
    """Make what is missing: the embedded ml-100k, a dataset that RecBole publishes, text features if `encoder` is given.

    Raises
    ------
    UserError
        If the dataset is not there and cannot be downloaded, the encoder cannot be loaded, or the dataset has no texts.
    """
    data, model = DataSettings.from_config(config), RunSettings.from_config(config).model
    folder, name = Path(data.data_path), data.dataset
    embedded = name == "ml-100k"
    if embedded and not (folder / f"{name}.inter").is_file():
        from dataset_tools.movielens import prepare_ml100k

        prepare_ml100k(folder.parent)
    fetch_dataset(folder, name)
    if model in MODELS and MODELS[model].reads_text:
        make_features(
            folder, name, config.final_config_dict, encoder, pooling, progress, "minilm" if embedded else None
        )


def train(
    config: Config,
    verbose: bool = False,
    tell: Callable[[str], None] | None = None,
    resume: bool = False,
    checkpoint: str | None = None,
) -> Result:
    """Train until early stopping, then evaluate the best epoch.

    Parameters
    ----------
    config
        From `settings.build_config`.
    verbose
        Show RecBole's log on the console too; the log file always has it.
    tell
        Is told of each epoch; prints if it is not given.
    resume
        Go on with the newest run in ``checkpoint_dir`` that has the same settings and data and was cut off. What comes
        out is what it would have given. A run that has finished is not trained again.
    checkpoint
        File to save to; None takes a name of its own in ``checkpoint_dir``.

    Returns
    -------
    Result
        Also written as JSON beside the checkpoint.

    Raises
    ------
    UserError
        If data and settings do not fit, before anything is trained; if the loss is not finite, or the disk is full.

    Examples
    --------
    >>> from recbole_unisrec.settings import build_config
    >>> settings = {"epochs": 1, "hidden_size": 16, "inner_size": 16, "topk": [3], "valid_metric": "NDCG@3"}
    >>> result = train(build_config("SASRecPacked", "ring", [], settings), tell=lambda line: None)
    >>> sorted(result.test)
    ['hit@3', 'ndcg@3']
    >>> result.best_epoch
    0
    """
    tell = tell or say
    run = RunSettings.from_config(config)
    if resume and run.model not in PACKED:
        raise UserError(f"{run.model} cannot be resumed; --resume goes with {', '.join(PACKED)}")
    start(config, verbose)
    started = time.perf_counter()
    data = make_data(config)
    keep_freed_memory()  # not before: steps ask for the same tensors again, the reading of a dataset does not
    for line in check_evaluation(config, data.dataset.item_num - 1):
        tell(line)
    trainer = make_trainer(config, data, checkpoint)
    if isinstance(trainer, PackedTrainer):
        return _resumable(config, data, trainer, tell, resume, started)
    epochs = fit(config, data, trainer, tell)
    return evaluate(config, data, trainer, epochs, time.perf_counter() - started)


def _resumable(
    config: Config, data: Data, trainer: PackedTrainer, tell: Callable[[str], None], resume: bool, started: float
) -> Result:
    """Train and report, with the state of each epoch in the folder of the run."""
    checksum, folder = unfinished.fingerprint(data.dataset), Path(RunSettings.from_config(config).checkpoint_dir)
    run, found = RunFolder(Path(trainer.saved_model_file)), None
    if resume:
        found, nothing = unfinished.find(folder, config, checksum)
        known = None if found else unfinished.finished(folder, config, checksum)
        if known is not None:
            tell(f"{known['checkpoint']} has these settings and its run is finished: nothing is trained")
            return Result(**known)
        run = found or run
        if nothing:
            tell(nothing)
    with locked(run.folder):
        run.begin(config, checksum)
        trainer.run, trainer.saved_model_file = run, str(run.checkpoint)
        if found is not None:
            tell(run.resume(trainer))
        epochs = fit(config, data, trainer, tell, run.records)
        result = evaluate(config, data, trainer, epochs, time.perf_counter() - started + run.seconds, run.data)
        run.end()
    return result


def start(config: Config, verbose: bool) -> None:
    """The log, and a place for the checkpoint that can be written."""
    run = RunSettings.from_config(config)
    if run.log_wandb and importlib.util.find_spec("wandb") is None:
        raise UserError("log_wandb needs the package wandb; run `pip install wandb`, or leave log_wandb out")
    start_logging(config, verbose)
    check_writable(run.checkpoint_dir, "set checkpoint_dir")


def make_data(config: Config) -> Data:
    """Read the dataset and split it.

    Raises
    ------
    UserError
        If RecBole refuses the settings for this model.
    """
    run, training = RunSettings.from_config(config), TrainingSettings.from_config(config)
    init_seed(training.seed, training.reproducibility)
    try:
        dataset = SequenceDataset(config) if reads_our_dataset(run.model) else create_dataset(config)
        with no_sets_of_users(config) if isinstance(dataset, SequenceDataset) else nullcontext():
            return Data(dataset, *data_preparation(config, dataset))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{run.dataset} and its settings do not fit {run.model}: {error}") from error


@contextmanager
def no_sets_of_users(config: Config) -> Iterator[None]:
    """Within it RecBole makes no samplers for parts that rank all items.

    Loaders of sequences ask them for nothing, and they hold a set for each user.
    """
    settings = config.final_config_dict
    names = [f"{phase}_neg_sample_args" for phase in ("valid", "test")]
    before = {name: settings[name] for name in names}
    for name, drawn in before.items():
        if drawn["sample_num"] == "none":
            settings[name] = {**drawn, "distribution": "none"}
    try:
        yield
    finally:
        settings.update(before)


def counts_ranks(config: Config) -> bool:
    """Whether evaluation counts ranks (`PackedTrainer`), rather than to sort the best k of all items as RecBole does."""
    ours = issubclass(model_class(RunSettings.from_config(config).model), TableRecommender)
    evaluation = EvaluationSettings.from_config(config)
    modes = set(evaluation.eval_args["mode"].values())
    return ours and modes == {"full"} and all(m.lower() in RANK_METRICS for m in evaluation.metrics)


def check_evaluation(config: Config, n_items: int) -> list[str]:
    """Look for cut-offs that the items are too few for; gives what is to be said of the others.

    Raises
    ------
    UserError
        If the best k of fewer than k items would have to be sorted.
    """
    evaluation = EvaluationSettings.from_config(config)
    largest = max(evaluation.topk)
    if not counts_ranks(config) and largest > n_items:
        raise UserError(
            f"topk {largest} is more than the {n_items} items of {RunSettings.from_config(config).dataset}; lower topk"
        )
    said = []
    for mode in sorted(set(evaluation.eval_args["mode"].values())):
        drawn = int(mode[3:]) if mode[3:].isdecimal() else largest
        if drawn + 1 <= largest:
            said.append(
                f"note: {mode} ranks the next item among {drawn + 1}, so HIT@{largest} is 1 whatever the model does; "
                "lower topk for figures that tell models apart"
            )
    return said


def make_model(config: Config, data: Data) -> Any:
    """The model of the settings, on the device."""
    run, training = RunSettings.from_config(config), TrainingSettings.from_config(config)
    init_seed(training.seed, training.reproducibility)
    model: Any = model_class(run.model)(config, data.train._dataset).to(run.device)
    if run.model in SEQUENCES_ONLY:
        trim_padding(model)
    if hasattr(model, "other_parameter_name"):  # modules (FDSA's) have their weights in the state already, and are code
        names = [name for name in model.other_parameter_name if not isinstance(getattr(model, name), Module)]
        model.other_parameter_name = names
    return model


def make_trainer(config: Config, data: Data, checkpoint: str | None = None) -> Any:
    """The trainer of the model, and with it the model.

    Parameters
    ----------
    config, data
        As in `train`.
    checkpoint
        File that it saves to; None takes a name that no other run has, in ``checkpoint_dir``.
    """
    run = RunSettings.from_config(config)
    trainer = get_trainer(run.model_type, run.model)(config, make_model(config, data))
    if checkpoint is not None:
        trainer.saved_model_file = checkpoint
    elif not isinstance(trainer, PackedTrainer):  # ours has such a name already
        trainer.saved_model_file = own_name(trainer.saved_model_file)
    return trainer
