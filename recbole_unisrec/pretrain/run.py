"""``--train_stage pretrain``: one run from settings to checkpoints."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.utils import get_dataloader
from recbole.utils import init_seed

from recbole_unisrec import distributed
from recbole_unisrec.memory import keep_freed_memory
from recbole_unisrec.pretrain.dataset import MixtureDataset, on_device
from recbole_unisrec.pretrain.loader import PretrainLoader
from recbole_unisrec.pretrain.model import UniSRecPretrain
from recbole_unisrec.pretrain.trainer import UniSRecPretrainTrainer
from recbole_unisrec.pretrain.views import Augmentation
from recbole_unisrec.record import say, start_logging
from recbole_unisrec.run_state import locked
from recbole_unisrec.setting_table import PretrainSettings, RunSettings, TrainingSettings

MODEL = "UniSRecPretrain"


@dataclass(frozen=True)
class PretrainResult:
    """What one run left.

    Attributes
    ----------
    folder
        Of the run: checkpoints, ``best``, ``history.json`` and ``gates.png``.
    history
        One record an epoch: losses of the tasks, seconds, validation, gate.
    best
        The record with the best validation, if there was validation.
    """

    folder: Path
    history: list[dict[str, Any]]
    best: dict[str, Any] | None


def make_loader(config: Config, dataset: MixtureDataset, world: distributed.World) -> PretrainLoader:
    """The loader that the settings describe."""
    s, training = PretrainSettings.from_config(config), TrainingSettings.from_config(config)
    augmentation = Augmentation(s.item_drop_ratio, s.item_drop_coefficient, dataset.features.n_items, training.seed)
    return PretrainLoader(
        dataset, training.train_batch_size, augmentation, training.seed, s.domain_sampling, world,
        gather=not on_device(config), at_a_time=s.rows_at_a_time, pairs=s.pretrain_pairs,
    )  # fmt: skip


def pretrain(config: Config, resume: bool = False, verbose: bool = False) -> PretrainResult:
    """Pre-train on a mixture.

    Parameters
    ----------
    config
        Of the model ``UniSRecPretrain`` (see `settings.build_config`).
    resume
        Go on with the newest sound checkpoint of the run's folder.
    verbose
        Show RecBole's log on the console too.

    Raises
    ------
    UserError
        If settings, mixture or checkpoints do not fit, or the loss is not finite.
    """
    with distributed.running(RunSettings.from_config(config).backend) as world:
        return _run(config, world, resume, verbose)


def _run(config: Config, world: distributed.World, resume: bool, verbose: bool) -> PretrainResult:
    started = time.perf_counter()
    tell = say if world.first else (lambda line: None)
    run, training = RunSettings.from_config(config), TrainingSettings.from_config(config)
    start_logging(config, verbose and world.first)
    init_seed(training.seed, training.reproducibility)
    dataset = create_dataset(config)
    train_data = get_dataloader(config, "train")(config, dataset, None)
    keep_freed_memory()
    init_seed(training.seed, training.reproducibility)
    model = UniSRecPretrain(config, dataset)
    model.world = world
    model = model.to(run.device)
    if on_device(config):
        model.use_table(dataset.features.on(run.device))
    trainer = UniSRecPretrainTrainer(config, model)
    trainer.say = tell
    n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    names = [d.name for d in dataset.domains]
    tell(
        f"pre-training on {run.dataset} ({', '.join(names)}): {len(dataset.train_users):,} users, "
        f"{dataset.item_num - 1:,} items, {len(dataset):,} pairs in {len(train_data)} steps an epoch, "
        f"{len(dataset.valid_users):,} users held out, {n_parameters:,} parameters, {world.size} "
        f"process{'es' if world.size > 1 else ''} on {run.device.type}"
    )
    if trainer.transfer is not None:
        tell(str(trainer.transfer))

    def report(epoch: int, record: dict[str, Any]) -> None:
        valid = record.get("valid")
        score = "".join(
            f"  {name} {m['hit@10']:.4f}/{m['ndcg@10']:.4f}" for name, m in valid.items()
        ) if valid else ""  # fmt: skip
        in_use = "/".join(f"{n:.1f}" for n in record["experts_in_use"])
        tell(
            f"epoch {epoch:>3}  loss {record['loss']:.4f}  seq-item {record['seq_item']:.4f}  seq-seq "
            f"{record['seq_seq']:.4f}  experts {in_use}  {record['seconds']:.0f} s "
            f"({record['rows_per_second']:.0f} pairs/s)" + (f"  HIT/NDCG@10{score}" if score else "")
        )

    with locked(trainer.folder) if world.first else contextlib.nullcontext():
        if resume:
            tell(trainer.resume(train_data))
        _, best = trainer.fit(train_data, show_progress=run.show_progress, callback_fn=report)
    tell(f"done in {time.perf_counter() - started:.0f} s; checkpoints in {trainer.folder}")
    if best is not None:
        tell(f"best zero-shot validation in epoch {best['epoch']}: use --pretrained {trainer.folder / 'best'}")
    return PretrainResult(trainer.folder, trainer.history, best)


def loader_for(config: Any, dataset: Any, sampler: Any, shuffle: bool = True) -> PretrainLoader:
    """What RecBole's ``get_dataloader`` hands out for each phase of pre-training."""
    return make_loader(config, dataset, distributed.current())
