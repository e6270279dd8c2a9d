"""Train and evaluate one model on one dataset, and write down what came out."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed
from torch.nn import Module

from dataset_tools.common import write_text
from recbole_unisrec import unfinished
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.data.download import fetch_dataset
from recbole_unisrec.data.make_features import make_features
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import LENGTH, POPULARITY, TestUsers, group_metrics, user_ranks, write_ranks
from recbole_unisrec.failures import in_one_sentence
from recbole_unisrec.memory import keep_freed_memory, shared_memory_told
from recbole_unisrec.metrics import RANK_METRICS
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.trim import trim_padding
from recbole_unisrec.record import plain, say, start_logging, versions
from recbole_unisrec.registry import MODELS, PACKED, SEQUENCES_ONLY
from recbole_unisrec.run_state import locked
from recbole_unisrec.safe_load import safe_torch_load
from recbole_unisrec.settings import DATA_SETTINGS, build_config, model_class, reads_our_dataset
from recbole_unisrec.trainer import PackedTrainer, check_writable, own_name
from recbole_unisrec.unfinished import RunFolder


@dataclass
class Result:
    """What one run gave; also the layout of the JSON file beside the checkpoint.

    Attributes
    ----------
    valid, test
        Metrics by name (``ndcg@10``), of the best epoch on the validation part; empty where a split has no such part.
    epochs
        One entry an epoch: number, mean loss of a step, validation score, seconds of training and of evaluation.
    seconds
        Wall time of training and evaluation together.
    groups
        Test metrics by ``popularity`` (training interactions of the target item) and ``length`` (of the history).
    ranks
        File with the rank of each item to find of the test part (see `evaluation.read_ranks`).
    data
        Checksum of what was learned from, of models on our data path (`unfinished.fingerprint`).
    refit
        Of a last fit on all the data: the run that its figures are of, and its epochs; see `refit.refit`.
    path_start
        Where validation let the text's own path start, by setting (`path_start.choose_start`); None without a choice.
    """

    model: str
    dataset: str
    train_stage: str | None
    seed: int
    valid: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, float]]
    best_epoch: int
    seconds: float
    groups: dict[str, dict[str, dict[str, float]]]
    checkpoint: str
    ranks: str
    n_parameters: int
    versions: dict[str, str]
    config: dict[str, Any] = field(repr=False)
    data: str = ""
    refit: dict[str, Any] | None = None
    path_start: dict[str, float] | None = None

    @property
    def label(self) -> str:
        """Name of the row in a table."""
        short = {"inductive_ft": "inductive", "transductive_ft": "transductive"}
        return f"{self.model} {short[self.train_stage]}" if self.train_stage in short else self.model


def prepare(config: Config, encoder: str | None, pooling: str | None, progress: bool = True) -> None:
    """Make what is missing: the embedded ml-100k, a dataset that RecBole publishes, text features if `encoder` is given.

    Raises
    ------
    UserError
        If the dataset is not there and cannot be downloaded, the encoder cannot be loaded, or the dataset has no texts.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    embedded = name == "ml-100k"
    if embedded and not (folder / f"{name}.inter").is_file():
        from dataset_tools.movielens import prepare_ml100k

        prepare_ml100k(folder.parent)
    fetch_dataset(folder, name)
    if config["model"] in MODELS and MODELS[config["model"]].reads_text:
        make_features(
            folder, name, config.final_config_dict, encoder, pooling, progress, "minilm" if embedded else None
        )


@dataclass(frozen=True)
class Data:
    """A dataset and the loaders of its three parts; a split may leave `valid` or `test` empty."""

    dataset: Any
    train: Any
    valid: Any
    test: Any


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
    """
    tell = tell or say
    if resume and config["model"] not in PACKED:
        raise UserError(f"{config['model']} cannot be resumed; --resume goes with {', '.join(PACKED)}")
    start(config, verbose)
    started = time.perf_counter()
    data = make_data(config)
    for line in check_evaluation(config, data.dataset.item_num - 1):
        tell(line)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, make_model(config, data))
    if checkpoint is not None:
        trainer.saved_model_file = checkpoint
    if not isinstance(trainer, PackedTrainer):
        trainer.saved_model_file = checkpoint or own_name(trainer.saved_model_file)
        epochs = fit(config, data, trainer, tell)
        return evaluate(config, data, trainer, epochs, time.perf_counter() - started)
    checksum = unfinished.fingerprint(data.dataset)
    run, found = RunFolder(Path(trainer.saved_model_file)), None
    if resume:
        found, nothing = unfinished.find(Path(config["checkpoint_dir"]), config, checksum)
        known = None if found else unfinished.finished(Path(config["checkpoint_dir"]), config, checksum)
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
    if config["log_wandb"] and importlib.util.find_spec("wandb") is None:
        raise UserError("log_wandb needs the package wandb; run `pip install wandb`, or leave log_wandb out")
    start_logging(config, verbose)
    keep_freed_memory()
    check_writable(config["checkpoint_dir"])


def make_data(config: Config) -> Data:
    """Read the dataset and split it.

    Raises
    ------
    UserError
        If RecBole refuses the settings for this model.
    """
    init_seed(config["seed"], config["reproducibility"])
    try:
        dataset = SequenceDataset(config) if reads_our_dataset(config["model"]) else create_dataset(config)
        return Data(dataset, *data_preparation(config, dataset))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{config['dataset']} and its settings do not fit {config['model']}: {error}") from error


def counts_ranks(config: Config) -> bool:
    """Whether evaluation counts ranks (`PackedTrainer`), rather than to sort the best k of all items as RecBole does."""
    ours = issubclass(model_class(config["model"]), TableRecommender)
    modes = set(config["eval_args"]["mode"].values())
    return ours and modes == {"full"} and all(m.lower() in RANK_METRICS for m in config["metrics"])


def check_evaluation(config: Config, n_items: int) -> list[str]:
    """Look for cut-offs that the items are too few for; gives what is to be said of the others.

    Raises
    ------
    UserError
        If the best k of fewer than k items would have to be sorted.
    """
    largest = max(config["topk"])
    if not counts_ranks(config) and largest > n_items:
        raise UserError(f"topk {largest} is more than the {n_items} items of {config['dataset']}; lower topk")
    said = []
    for mode in sorted(set(config["eval_args"]["mode"].values())):
        drawn = int(mode[3:]) if mode[3:].isdecimal() else largest
        if drawn + 1 <= largest:
            said.append(
                f"note: {mode} ranks the next item among {drawn + 1}, so HIT@{largest} is 1 whatever the model does; "
                "lower topk for figures that tell models apart"
            )
    return said


def make_model(config: Config, data: Data) -> Any:
    """The model of the settings, on the device."""
    init_seed(config["seed"], config["reproducibility"])
    model: Any = model_class(config["model"])(config, data.train._dataset).to(config["device"])
    if config["model"] in SEQUENCES_ONLY:
        trim_padding(model)
    if hasattr(model, "other_parameter_name"):  # modules (FDSA's) have their weights in the state already, and are code
        names = [name for name in model.other_parameter_name if not isinstance(getattr(model, name), Module)]
        model.other_parameter_name = names
    return model


def parameters_of(model: Module) -> int:
    """Number of values that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def shows_progress(config: Config, trainer: Any) -> bool:
    """Whether bars are drawn; RecBole's would go into pipes too."""
    return bool(config["show_progress"]) and (isinstance(trainer.model, TableRecommender) or sys.stderr.isatty())


def fit(
    config: Config,
    data: Data,
    trainer: Any,
    tell: Callable[[str], None],
    epochs: list[dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """Say what is trained, and train it.

    Parameters
    ----------
    config, data, trainer, tell
        As in `train`.
    epochs
        The entries of a run that goes on; they are added to.

    Returns
    -------
    list of dict
        One entry an epoch (see `Result.epochs`).

    Raises
    ------
    UserError
        If the loss is not finite, or a file cannot be written.
    """
    epochs = [] if epochs is None else epochs
    if getattr(trainer, "transfer", None) is not None:
        tell(str(trainer.transfer))
    tell(
        f"{config['model']} on {config['dataset']}: {data.dataset.user_num - 1:,} users, {data.dataset.item_num - 1:,} "
        f"items, {len(data.train._dataset):,} training pairs, {parameters_of(trainer.model):,} trained parameters"
    )
    # RecBole's trainers give the sum over steps
    steps = 1 if isinstance(trainer.model, TableRecommender) else len(data.train)
    mark = [time.perf_counter()]

    def passed() -> float:
        before, mark[0] = mark[0], time.perf_counter()
        return mark[0] - before

    def report_pretraining(epoch: int, loss: float) -> None:
        tell(f"pre-training epoch {epoch:>3}  loss {loss:8.4f}  {passed():6.1f} s")

    if hasattr(trainer, "on_pretraining"):
        trainer.on_pretraining = report_pretraining

    def report(epoch: int, score: float) -> None:
        loss, seconds = trainer.train_loss_dict[epoch] / steps, passed()
        best = score >= trainer.best_valid_score
        epochs.append({"epoch": epoch, "loss": loss, "valid_score": score, "seconds": seconds})
        tell(
            f"epoch {epoch:>3}  loss {loss:8.4f}  valid {config['valid_metric']} {score:.4f}{' *' if best else '  '}"
            f"  {seconds:6.1f} s"
        )

    validates = bool(data.valid) and config["eval_step"] > 0
    if not validates:  # nothing to stop by: RecBole trains all epochs, saves each, and calls nobody
        train_epoch = trainer._train_epoch

        def told(train_data: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
            loss = train_epoch(train_data, epoch, *args, **kwargs)
            mean, seconds = (sum(loss) if isinstance(loss, tuple) else loss) / steps, passed()
            epochs.append({"epoch": epoch, "loss": mean, "valid_score": 0.0, "seconds": seconds})
            tell(f"epoch {epoch:>3}  loss {mean:8.4f}  {seconds:6.1f} s")
            return loss

        trainer._train_epoch = told
    progress = shows_progress(config, trainer)
    valid = data.valid if validates else None
    with in_one_sentence(trainer.saved_model_file), shared_memory_told():
        trainer.fit(data.train, valid, verbose=True, saved=True, show_progress=progress, callback_fn=report)
    return epochs


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
    progress = shows_progress(config, trainer)
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
        model=config["model"],
        dataset=config["dataset"],
        train_stage=config["train_stage"] if config["model"] == "UniSRec" else None,
        seed=config["seed"],
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
    folder = Path(config["data_path"])
    plain_config = build_config("SASRecPacked", config["dataset"], [], {**settings, "data_path": str(folder.parent)})
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
        raise UserError(f"{config['model']} ranked other test items than {config['dataset']} splits off; use one split")
    metrics = [m for m in (m.lower() for m in config["metrics"]) if m in RANK_METRICS]
    kinds = {"popularity": (users.popularity, POPULARITY), "length": (users.length, LENGTH)}
    return {
        kind: group_metrics(ranks, values[rows], bounds, metrics, config["topk"])
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


def table(results: list[Result]) -> str:
    """Metrics of runs as an aligned text table, validation and test one under the other."""
    names = list(dict.fromkeys(name for r in results for part in (r.test, r.valid) for name in part))
    width = max(len(r.label) for r in results)
    lines = [f"{'':{width}}  part   " + "  ".join(f"{n.upper():>8}" for n in names) + "   epochs  seconds"]
    for r in results:
        for part, values in (("valid", r.valid), ("test", r.test)):
            cells = "  ".join(f"{values[n]:8.4f}" if n in values else f"{'–':>8}" for n in names)
            end = f"   {len(r.epochs):6}  {r.seconds:7.0f}" if part == "test" else ""
            lines.append(f"{r.label if part == 'valid' else '':{width}}  {part:5}  {cells}{end}")
    return "\n".join(lines)
