"""Train a model until early stopping, and tell of each epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recbole.config import Config
from torch.nn import Module

from recbole_unisrec.failures import in_one_sentence
from recbole_unisrec.memory import shared_memory_told
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.setting_table import EvaluationSettings, RunSettings, TrainingSettings


@dataclass(frozen=True)
class Data:
    """A dataset and the loaders of its three parts; a split may leave `valid` or `test` empty."""

    dataset: Any
    train: Any
    valid: Any
    test: Any


def parameters_of(model: Module) -> int:
    """Number of values that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def shows_progress(run: RunSettings, trainer: Any) -> bool:
    """Whether bars are drawn; RecBole's would go into pipes too."""
    return run.show_progress and (isinstance(trainer.model, TableRecommender) or sys.stderr.isatty())


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
    run, evaluation = RunSettings.from_config(config), EvaluationSettings.from_config(config)
    epochs = [] if epochs is None else epochs
    if getattr(trainer, "transfer", None) is not None:
        tell(str(trainer.transfer))
    tell(
        f"{run.model} on {run.dataset}: {data.dataset.user_num - 1:,} users, {data.dataset.item_num - 1:,} "
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
            f"epoch {epoch:>3}  loss {loss:8.4f}  valid {evaluation.valid_metric} {score:.4f}{' *' if best else '  '}"
            f"  {seconds:6.1f} s"
        )

    validates = bool(data.valid) and TrainingSettings.from_config(config).eval_step > 0
    if not validates:  # nothing to stop by: RecBole trains all epochs, saves each, and calls nobody
        train_epoch = trainer._train_epoch

        def told(train_data: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
            loss = train_epoch(train_data, epoch, *args, **kwargs)
            mean, seconds = (sum(loss) if isinstance(loss, tuple) else loss) / steps, passed()
            epochs.append({"epoch": epoch, "loss": mean, "valid_score": 0.0, "seconds": seconds})
            tell(f"epoch {epoch:>3}  loss {mean:8.4f}  {seconds:6.1f} s")
            return loss

        trainer._train_epoch = told
    progress = shows_progress(run, trainer)
    valid = data.valid if validates else None
    with in_one_sentence(trainer.saved_model_file), shared_memory_told():
        trainer.fit(data.train, valid, verbose=True, saved=True, show_progress=progress, callback_fn=report)
    return epochs
