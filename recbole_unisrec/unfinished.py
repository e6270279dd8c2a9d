"""Fine-tuning that was cut off goes on: its state lies in a folder beside the checkpoint until the run has ended.

``saved/UniSRec-NAME.pth`` holds the best epoch so far. ``saved/UniSRec-NAME.run/`` beside it holds ``settings.json`` and
checkpoints as in pre-training (see `checkpoint`), each with all that the next epoch starts from and the best epoch of that
moment. When the metrics are written (``UniSRec-NAME.json``), the folder goes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_tools.common import write_text
from recbole_unisrec import checkpoint as store
from recbole_unisrec.errors import UserError
from recbole_unisrec.record import plain
from recbole_unisrec.run_state import (
    difference,
    is_locked,
    optimizer_tensors,
    random_tensors,
    set_optimizer,
    set_random,
)
from recbole_unisrec.setting_table import RunSettings, TrainingSettings

SUFFIX, SETTINGS, BEST = ".run", "settings.json", "best.pth"
KEPT = 2  # states, so that there is one before the newest should that be torn
PATIENCE = 20  # so many times as long as the last state took to write, none is written: at most a twentieth of the time
SCALARS = ("start_epoch", "cur_step", "best_valid_score", "best_valid_result")


def fingerprint(dataset: Any) -> str:
    """A checksum of what is learned from: the sequences of a `SequenceDataset`, its split and its text features."""
    split, crc = dataset.split, 0
    parts = [p for part in (split.train, split.valid, split.test) for p in (part.items, part.start, part.target)]
    features = getattr(dataset, "features", None)
    for tensor in [*parts, *([] if features is None else [features.weight])]:
        crc = zlib.crc32(np.ascontiguousarray(tensor.numpy()).data, crc)
    return f"{crc:08x}"


@dataclass
class RunFolder:
    """The state of one run.

    Attributes
    ----------
    checkpoint
        Where its best epoch lies, ``saved/UniSRec-NAME.pth``.
    records, seconds
        What was reported of its epochs, and how long its earlier parts took.
    data
        `fingerprint` of its dataset.
    """

    checkpoint: Path
    records: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    data: str = ""
    _begun: float = field(default_factory=time.perf_counter)
    _written: float = 0.0
    _cost: float = 0.0
    _random: dict[str, torch.Tensor] | None = None

    @property
    def folder(self) -> Path:
        """``saved/UniSRec-NAME.run``."""
        return self.checkpoint.with_suffix(SUFFIX)

    def begin(self, config: Any, data: str) -> None:
        """Say whose state this is: a run with these settings, on data with this `fingerprint`."""
        self.data = data
        store.clean(self.folder)
        said = {"config": plain(config.final_config_dict), "data": data}
        write_text(self.folder / SETTINGS, json.dumps(said, indent=1) + "\n")

    def epoch_starts(self, trainer: Any, loader: Any, epoch: int) -> None:
        """Called before each epoch: writes the state, unless that was done a moment ago."""
        if self._random is not None:  # the first epoch after an interruption
            set_random(self._random, trainer.device)
            if "loader" in self._random:
                loader.generator.set_state(self._random["loader"])
            self._random = None
        elif epoch > trainer.start_epoch and time.perf_counter() - self._written >= PATIENCE * self._cost:
            started = time.perf_counter()
            self._save(trainer, loader, epoch)
            self._written = time.perf_counter()
            self._cost = self._written - started

    def _save(self, trainer: Any, loader: Any, epoch: int) -> None:
        tensors = {f"optimizer/{k}": v for k, v in optimizer_tensors(trainer.model, trainer.optimizer).items()}
        tensors |= {f"random/{k}": v for k, v in random_tensors(trainer.device).items()}
        if (generator := getattr(loader, "generator", None)) is not None:
            tensors["random/loader"] = generator.get_state()
        progress = {name: plain(getattr(trainer, name)) for name in SCALARS}
        progress["best_valid_score"] = float(trainer.best_valid_score)
        progress |= {
            "start_epoch": epoch,
            "records": self.records,
            "seconds": self.seconds + time.perf_counter() - self._begun,
        }
        progress["losses"] = {str(e): float(loss) for e, loss in trainer.train_loss_dict.items()}
        if trainer.average is not None:
            tensors |= {f"average/{i}": mean for i, mean in enumerate(trainer.average.mean)}
            progress["average_steps"] = trainer.average.steps
        weights = {name: t for name, t in trainer.model.state_dict().items() if isinstance(t, torch.Tensor)}
        beside = {BEST: self.checkpoint} if self.checkpoint.is_file() else {}
        path = self.folder / f"step-{epoch:08}"
        store.save_checkpoint(path, weights, {}, store.TrainingState(tensors, progress), beside)
        store.prune(self.folder, KEPT)

    def resume(self, trainer: Any) -> str:
        """Put the newest sound state into a trainer that has done nothing yet; says where it goes on.

        Raises
        ------
        UserError
            If all states are torn.
        """
        found = store.latest_checkpoint(self.folder)
        if found is None:
            return f"{self.folder} was cut off in its first epoch; starting it anew"
        path, weights, _, training, passed = found
        trainer.model.load_state_dict(weights)
        kinds: dict[str, dict[str, torch.Tensor]] = {"optimizer": {}, "random": {}, "average": {}}
        for full, tensor in training.optimizer.items():
            kind, _, name = full.partition("/")
            kinds[kind][name] = tensor
        set_optimizer(trainer.model, trainer.optimizer, kinds["optimizer"])
        progress = training.progress
        for name in SCALARS:
            setattr(trainer, name, progress[name])
        trainer.train_loss_dict = {int(epoch): loss for epoch, loss in progress["losses"].items()}
        if trainer.average is not None:
            for i, mean in enumerate(trainer.average.mean):
                mean.copy_(kinds["average"][str(i)])
            trainer.average.steps = progress["average_steps"]
        self.records[:], self.seconds, self._random = progress["records"], progress["seconds"], kinds["random"]
        if (path / BEST).is_file():  # the one at the side may be of a later epoch, which is yet to come
            again = self.checkpoint.with_name(f".{self.checkpoint.name}.again.tmp")
            shutil.copyfile(path / BEST, again)
            os.replace(again, self.checkpoint)
        torn = "".join(f"torn checkpoint passed over: {line}\n" for line in passed)
        return f"{torn}resumed from {path}: epoch {trainer.start_epoch}"

    def end(self) -> None:
        """The metrics are written: no state is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def find(folder: Path, config: Any, data: str) -> tuple[RunFolder | None, str]:
    """The newest run of these settings and data that was cut off, and a sentence if there is none.

    Parameters
    ----------
    folder
        ``checkpoint_dir``.
    config
        Of the run that is to go on.
    data
        `fingerprint` of its dataset.
    """
    other = ""
    model = RunSettings.from_config(config).model
    runs = sorted(folder.glob(f"{model}-*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in runs:
        checkpoint = path.with_suffix(".pth")
        if path.with_suffix(".json").is_file() or is_locked(path):
            continue
        try:
            begun = store.read_json(path / SETTINGS)
            changed = difference(begun["config"], config.final_config_dict)
            same_data = begun["data"] == data
        except (UserError, KeyError):
            continue  # cut off before it had begun
        if changed is None and same_data:
            return RunFolder(checkpoint), ""
        other = other or f"; {path} was made with {changed or 'other data'}"
    return None, f"nothing to resume in {folder} with these settings{other}; starting anew"


def finished(folder: Path, config: Any, data: str) -> dict[str, Any] | None:
    """What was written of the newest finished run of these settings and data in `folder`; None if there is none."""
    training = TrainingSettings.from_config(config)
    limits = {"epochs": training.epochs, "stopping_step": training.stopping_step}  # with other ones there is more to do
    files = folder.glob(f"{RunSettings.from_config(config).model}-*.json")
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            found = store.read_json(path)
        except UserError:
            continue
        before = found.get("config") or {}
        same = difference(before, config.final_config_dict) is None
        same = same and all(before.get(name) == value for name, value in limits.items())
        if same and found.get("data") == data and path.with_suffix(".pth").is_file():
            return found
    return None


def remark(checkpoint: Path) -> str | None:
    """A sentence about a checkpoint whose run has not ended; None if it has."""
    folder = checkpoint.with_suffix(SUFFIX)
    if checkpoint.suffix != ".pth" or not folder.is_dir() or checkpoint.with_suffix(".json").is_file():
        return None
    if is_locked(folder):
        return f"{checkpoint} is of a run that is still training: this is its best epoch so far"
    states = store.list_checkpoints(folder)
    when = f" after epoch {int(states[0].name.removeprefix('step-')) - 1}" if states else " in its first epochs"
    return (
        f"{checkpoint} is of a run that did not finish (it was cut off{when}): this is its best epoch so far; train it to "
        "the end with the same command and --resume"
    )
