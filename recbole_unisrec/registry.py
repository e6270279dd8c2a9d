"""Everything that RecBole looks up by name, registered in one place.

RecBole 1.2.1 finds a model as ``recbole.model.sequential_recommender.<lower-case name>``, its trainer as
``recbole.trainer.<Name>Trainer``, its dataset as ``recbole.data.dataset.<Name>Dataset``; its dataloaders stand in a
table local to ``get_dataloader``, and default property files are read from RecBole's own folder only. A new model is
one line in `MODELS`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.trainer import Trainer

from recbole_unisrec.data.dataset import SequenceDataset, TextDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.attribute_baselines import FDSAText, S3RecText, S3RecTextTrainer
from recbole_unisrec.model.sasrec import SASRecPacked
from recbole_unisrec.model.text_baselines import SASRecText, ZESRec
from recbole_unisrec.model.unisrec import UniSRec
from recbole_unisrec.pretrain.dataset import MixtureDataset
from recbole_unisrec.pretrain.model import UniSRecPretrain
from recbole_unisrec.pretrain.trainer import UniSRecPretrainTrainer
from recbole_unisrec.trainer import PackedTrainer


@dataclass(frozen=True)
class Entry:
    """What one model name stands for."""

    model: type
    dataset: type
    trainer: type
    props: tuple[str, ...]


MODELS = {
    "UniSRec": Entry(UniSRec, TextDataset, PackedTrainer, ("UniSRec.yaml", "packed.yaml", "finetune.yaml")),
    "UniSRecPretrain": Entry(
        UniSRecPretrain, MixtureDataset, UniSRecPretrainTrainer, ("UniSRec.yaml", "pretrain.yaml")
    ),
    "SASRecPacked": Entry(
        SASRecPacked, SequenceDataset, PackedTrainer, ("SASRecPacked.yaml", "packed.yaml", "finetune.yaml")
    ),
    "SASRecText": Entry(SASRecText, TextDataset, PackedTrainer, ("SASRecText.yaml", "packed.yaml", "finetune.yaml")),
    "ZESRec": Entry(
        ZESRec, TextDataset, PackedTrainer, ("SASRecText.yaml", "ZESRec.yaml", "packed.yaml", "finetune.yaml")
    ),
    "FDSAText": Entry(FDSAText, TextDataset, Trainer, ("finetune.yaml", "FDSAText.yaml")),
    "S3RecText": Entry(S3RecText, TextDataset, S3RecTextTrainer, ("finetune.yaml", "S3RecText.yaml")),
}
PACKED = tuple(name for name, entry in MODELS.items() if entry.trainer is PackedTrainer)
# RecBole's models that read nothing but sequences padded to the right, and so can do with `SequenceDataset`
SEQUENCES_ONLY = ("SASRec", "GRU4Rec", "BERT4Rec")


def props_folder() -> Path:
    """Where the property files lie: inside the installed package, or ``props/`` of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "props", package.parent / "props"):
        if (folder / "finetune.yaml").is_file():
            return folder
    raise UserError(f"the property files are missing beside {package}; install the package again")


def _register_names(name: str, entry: Entry) -> None:
    path = f"recbole.model.sequential_recommender.{name.lower()}"
    module = types.ModuleType(path, f"{name}, provided by recbole_unisrec")
    module.__spec__ = importlib.machinery.ModuleSpec(path, loader=None)
    setattr(module, name, entry.model)
    sys.modules[path] = module
    package = importlib.import_module("recbole.model.sequential_recommender")
    setattr(package, name.lower(), module)
    setattr(package, name, entry.model)
    setattr(importlib.import_module("recbole.trainer"), f"{name}Trainer", entry.trainer)
    setattr(importlib.import_module("recbole.data.dataset"), f"{name}Dataset", entry.dataset)


def _register_dataloader() -> None:
    from recbole_unisrec.data.loader import train_loader

    utils = importlib.import_module("recbole.data.utils")
    original = utils.get_dataloader

    @functools.wraps(original)
    def get_dataloader(config: Any, phase: str) -> Any:
        if config["model"] == "UniSRecPretrain":
            from recbole_unisrec.pretrain.run import loader_for

            return loader_for
        if config["model"] in PACKED and phase == "train" and config["train_mode"] != "prefix":
            return train_loader
        return original(config, phase)

    for module in (utils, importlib.import_module("recbole.data")):
        module.get_dataloader = get_dataloader  # type: ignore[attr-defined]


def _register_properties() -> None:
    configurator = importlib.import_module("recbole.config.configurator")
    original = configurator.Config._load_internal_config_dict
    set_defaults = configurator.Config._set_default_parameters

    @functools.wraps(original)
    def load_internal(self: Any, model: str, model_class: type, dataset: str) -> None:
        original(self, model, model_class, dataset)
        if model in MODELS:
            for file in MODELS[model].props:
                self._update_internal_config_dict(str(props_folder() / file))

    @functools.wraps(set_defaults)
    def set_default_parameters(self: Any) -> None:
        data_path = self.final_config_dict["data_path"]
        set_defaults(self)
        # for ml-100k RecBole always answers with its own folder, which has no texts and cannot be written to
        prepared = Path(data_path) / self.dataset
        if self.dataset == "ml-100k" and (self.model in MODELS or (prepared / "ml-100k.inter").is_file()):
            self.final_config_dict["data_path"] = str(prepared)

    configurator.Config._load_internal_config_dict = load_internal
    configurator.Config._set_default_parameters = set_default_parameters


def register() -> None:
    """Make RecBole find the project's models, datasets, trainers, dataloaders and property files; idempotent."""
    if "recbole.model.sequential_recommender.unisrec" in sys.modules:
        return
    for name, entry in MODELS.items():
        _register_names(name, entry)
    _register_dataloader()
    _register_properties()
