"""Hands the entries of `registry` to RecBole, which looks everything up by name.

RecBole 1.2.1 finds a model as ``recbole.model.sequential_recommender.<lower-case name>``, its trainer as
``recbole.trainer.<Name>Trainer``, its dataset as ``recbole.data.dataset.<Name>Dataset``; its dataloaders stand in a
table local to ``get_dataloader``, and default property files are read from RecBole's own folder only.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from recbole_unisrec.data.split_names import OWN_SPLITS, split_function
from recbole_unisrec.data.splits import Sequences
from recbole_unisrec.registry import MIXTURE_LOADER, MODELS, props_folder, resolve
from recbole_unisrec.setting_checks import check_all, defaults_of
from recbole_unisrec.setting_parts import value_of


def _register_names() -> None:
    """RecBole's modules have our classes, each imported when first asked for: the import of one may have brought us here."""
    models = importlib.import_module("recbole.model.sequential_recommender")
    wanted: dict[types.ModuleType, dict[str, str]] = {models: {}}
    for name, entry in MODELS.items():
        path = f"{models.__name__}.{name.lower()}"
        module = types.ModuleType(path, f"{name}, provided by recbole_unisrec")
        module.__spec__ = importlib.machinery.ModuleSpec(path, loader=None)
        sys.modules[path] = module
        setattr(models, name.lower(), module)
        wanted[module] = {name: entry.model_path}
        wanted[models][name] = entry.model_path
        for place, kind, where in (
            ("recbole.trainer", "Trainer", entry.trainer_path), ("recbole.data.dataset", "Dataset", entry.dataset_path)
        ):  # fmt: skip
            wanted.setdefault(importlib.import_module(place), {})[f"{name}{kind}"] = where
    for module, paths in wanted.items():
        _resolve_later(module, paths)


def _resolve_later(module: types.ModuleType, paths: dict[str, str]) -> None:
    def getattr_of_module(name: str) -> Any:
        if name not in paths:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        setattr(module, name, resolve(paths[name]))
        return vars(module)[name]

    module.__getattr__ = getattr_of_module  # type: ignore[method-assign]


def _register_dataloader() -> None:
    utils = importlib.import_module("recbole.data.utils")
    original = utils.get_dataloader

    @functools.wraps(original)
    def get_dataloader(config: Any, phase: str) -> Any:
        model, mode = (value_of(config, name) for name in ("model", "train_mode"))  # of any model: nothing is checked
        loader = MODELS[model].loader_path if model in MODELS else ""
        if loader and (loader == MIXTURE_LOADER or (phase == "train" and mode != "prefix")):
            return resolve(loader)
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
            self.internal_config_dict.update(defaults_of(model))
            for file in MODELS[model].props:
                self._update_internal_config_dict(str(props_folder() / file))

    @functools.wraps(set_defaults)
    def set_default_parameters(self: Any) -> None:
        if self.model in MODELS:
            check_all(self.model, self.final_config_dict)
        data_path = self.final_config_dict["data_path"]
        set_defaults(self)
        # for ml-100k RecBole always answers with its own folder, which has no texts and cannot be written to
        prepared = Path(data_path) / self.dataset
        if self.dataset == "ml-100k" and (self.model in MODELS or (prepared / "ml-100k.inter").is_file()):
            self.final_config_dict["data_path"] = str(prepared)

    configurator.Config._load_internal_config_dict = load_internal
    configurator.Config._set_default_parameters = set_default_parameters


def _register_splits() -> None:
    """The splits that RecBole has not, for those of its models that read their data in its own way."""
    from recbole.data.dataset import SequentialDataset  # not above: this module is what the import of RecBole calls
    from recbole.data.interaction import cat_interactions

    original = SequentialDataset.build

    @functools.wraps(original)
    def build(self: Any) -> list[Any]:
        args = value_of(self.config, "eval_args")  # of any dataset: nothing is checked
        kind = next(iter(args["split"] or {}), None)
        if self.benchmark_filename_list is not None and kind == "ALL":
            train, *others = original(self)
            train.inter_feat = cat_interactions([part.inter_feat for part in (train, *others)])
            return [train, *(part.copy(part.inter_feat[:0]) for part in others)]
        if self.benchmark_filename_list is not None or kind not in OWN_SPLITS:
            return original(self)
        users, items, times = (
            self.inter_feat[field].to_numpy() for field in (self.uid_field, self.iid_field, self.time_field)
        )
        sequences = Sequences.of(users, items, times)
        split = split_function(args)(sequences, self.max_item_list_len)
        self._change_feat_format()  # one row for each of `sequences.targets`, in their order
        self._drop_unused_col()
        rows = (np.searchsorted(sequences.targets, part.target.numpy()) for part in split.parts)
        return [self.copy(self.inter_feat[index]) for index in rows]

    SequentialDataset.build = build


def register() -> None:
    """Make RecBole find the project's models, datasets, trainers, dataloaders and property files; idempotent."""
    if "recbole.model.sequential_recommender.unisrec" in sys.modules:
        return
    _register_names()
    _register_dataloader()
    _register_splits()
    _register_properties()
