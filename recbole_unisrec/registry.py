"""The models of this project by name: where each finds its class, dataset, trainer, loader and property files.

It holds names alone and imports nothing of the project, so every module may read it. `plugin` hands the entries to RecBole.
A new model is one line in `MODELS`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_unisrec.errors import UserError


def resolve(path: str) -> Any:
    """What ``module:name`` stands for, imported now.

    Raises
    ------
    ImportError, AttributeError
        If there is no such module or name.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Entry:
    """What one model name stands for. Classes are given as ``module:name`` and imported when they are first asked for.

    Attributes
    ----------
    model_path, dataset_path, trainer_path
        Their classes.
    props
        Property files with the defaults, the later one wins.
    loader_path
        Function that makes the training loader, and for a mixture every loader; empty for RecBole's own.
    """

    model_path: str
    dataset_path: str
    trainer_path: str
    props: tuple[str, ...]
    loader_path: str = ""

    @property
    def model(self) -> type:
        """Class of the model."""
        return resolve(self.model_path)

    @property
    def dataset(self) -> type:
        """Class of its dataset."""
        return resolve(self.dataset_path)

    @property
    def trainer(self) -> type:
        """Class of its trainer."""
        return resolve(self.trainer_path)

    @property
    def reads_text(self) -> bool:
        """Whether it is trained on text features."""
        return self.dataset_path == TEXT


SEQUENCES = "recbole_unisrec.data.dataset:SequenceDataset"
TEXT = "recbole_unisrec.data.text_dataset:TextDataset"
PACKED_TRAINER = "recbole_unisrec.trainer:PackedTrainer"
PACKED_LOADER = "recbole_unisrec.data.loader:train_loader"
MIXTURE_LOADER = "recbole_unisrec.pretrain.run:loader_for"


def _packed(model_path: str, dataset_path: str, *props: str) -> Entry:
    return Entry(model_path, dataset_path, PACKED_TRAINER, (*props, "packed.yaml", "finetune.yaml"), PACKED_LOADER)


MODELS = {
    "UniSRec": _packed("recbole_unisrec.model.unisrec:UniSRec", TEXT, "UniSRec.yaml"),
    "UniSRecPretrain": Entry(
        "recbole_unisrec.pretrain.model:UniSRecPretrain",
        "recbole_unisrec.pretrain.dataset:MixtureDataset",
        "recbole_unisrec.pretrain.trainer:UniSRecPretrainTrainer",
        ("UniSRec.yaml", "pretrain.yaml"),
        MIXTURE_LOADER,
    ),
    "SASRecPacked": _packed("recbole_unisrec.model.sasrec:SASRecPacked", SEQUENCES, "SASRecPacked.yaml"),
    "SASRecText": _packed("recbole_unisrec.model.text_baselines:SASRecText", TEXT, "SASRecText.yaml"),
    "ZESRec": _packed("recbole_unisrec.model.text_baselines:ZESRec", TEXT, "SASRecText.yaml", "ZESRec.yaml"),
    "SASRecPath": _packed(
        "recbole_unisrec.model.text_baselines:SASRecPath", TEXT, "SASRecPacked.yaml", "SASRecPath.yaml"
    ),
    "TedRec": _packed("recbole_unisrec.model.tedrec:TedRec", TEXT, "TedRec.yaml"),
    "VQRec": _packed("recbole_unisrec.model.vqrec:VQRec", TEXT, "VQRec.yaml"),
    "TextKNN": Entry(
        "recbole_unisrec.model.text_knn:TextKNN",
        TEXT,
        PACKED_TRAINER,
        ("finetune.yaml", "TextKNN.yaml"),
    ),
    "FDSAText": Entry(
        "recbole_unisrec.model.attribute_baselines:FDSAText",
        TEXT,
        "recbole.trainer:Trainer",
        ("finetune.yaml", "FDSAText.yaml"),
    ),
    "S3RecText": Entry(
        "recbole_unisrec.model.attribute_baselines:S3RecText",
        TEXT,
        "recbole_unisrec.model.attribute_baselines:S3RecTextTrainer",
        ("finetune.yaml", "S3RecText.yaml"),
    ),
}
PACKED = tuple(name for name, entry in MODELS.items() if entry.loader_path == PACKED_LOADER)
# RecBole's models that read nothing but sequences padded to the right, and so can do with `SequenceDataset`
SEQUENCES_ONLY = ("SASRec", "GRU4Rec", "BERT4Rec")


def props_folder() -> Path:
    """Where the property files lie: inside the installed package, or ``props/`` of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "props", package.parent / "props"):
        if (folder / "finetune.yaml").is_file():
            return folder
    raise UserError(f"the property files are missing beside {package}; install the package again")
