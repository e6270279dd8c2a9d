"""Every gap between RecBole 1.2.1 and current libraries that a version bound cannot close, closed in one place.

The bounds in setup.cfg close the others: pandas < 3 (``Series.agg(len)``, ``fillna(inplace=True)``, missing token_seq),
setuptools < 82 (``pkg_resources`` in ray).
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_unisrec.safe_load import safe_torch_load as safe_torch_load
from recbole_unisrec.whole_save import whole_torch_save


class _TorchWithSafeFiles(types.ModuleType):
    """`torch` as RecBole's modules see it."""

    load = staticmethod(safe_torch_load)
    save = staticmethod(whole_torch_save)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _patch_load() -> None:
    """torch >= 2.6: ``torch.load`` in trainer.py and quick_start.py (see `safe_torch_load`), and whole checkpoints."""
    importlib.import_module("recbole.trainer.trainer").torch = _TorchWithSafeFiles("torch")  # type: ignore[attr-defined]
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    original = quick_start.load_data_and_model

    @functools.wraps(original)
    def load_data_and_model(model_file: str) -> Any:
        # it imports torch within, so torch itself is lent the safe load for the duration of the call
        original_load, torch.load = torch.load, safe_torch_load  # type: ignore[assignment]
        try:
            return original(model_file)
        finally:
            torch.load = original_load

    for module in (quick_start, importlib.import_module("recbole.quick_start")):
        module.load_data_and_model = load_data_and_model  # type: ignore[attr-defined]


def _patch_other_parameter() -> None:
    """FDSA, S3Rec: checkpoints also hold a whole layer, and through it the dataset, which no safe load reads.

    The weights of a layer are in the ``state_dict`` anyway.
    """
    base = importlib.import_module("recbole.model.abstract_recommender").AbstractRecommender
    original = base.other_parameter

    @functools.wraps(original)
    def other_parameter(self: Any) -> dict[str, Any]:
        return {name: value for name, value in original(self).items() if not isinstance(value, torch.nn.Module)}

    base.other_parameter = other_parameter


def _patch_anomaly() -> None:
    """sine.py switches autograd's anomaly detection on for the whole process when any sequential model is imported."""
    imported = "recbole.model.sequential_recommender.sine" in sys.modules  # before us, so that it is on by now
    before = torch.is_anomaly_enabled() and not imported
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(before)


# numpy 2 has them no more: configurator.compatibility_settings reads the first three, ray.tune the last
NUMPY_1_NAMES = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "bool8": np.bool_}


def _patch_numpy() -> None:
    """numpy >= 2: names that RecBole and ray still use."""
    for name, kind in NUMPY_1_NAMES.items():
        if name not in np.__dict__:
            setattr(np, name, kind)


def _patch_scipy() -> None:
    """scipy >= 1.13: ``dok_matrix._update`` of the graph models (LightGCN, NGCF, ...) raises."""
    if not issubclass(scipy.sparse.dok_matrix, dict):
        scipy.sparse.dok_matrix._update = lambda self, data: self._dict.update(data)


def _report(**metrics: Any) -> None:
    """``ray.tune.report``, where somebody has imported it: else there is no session to report to."""
    if "ray.tune" in sys.modules:
        sys.modules["ray.tune"].report(**metrics)


def _import_without_ray() -> None:
    """quick_start.py imports ``ray.tune`` for one line of ``objective_function``, which reports to a session of ray's.

    Its import takes a second, and takes SIGTERM over for the whole process. From Python 3.12 on there is no ray that
    RecBole 1.2.1 admits.
    """
    if "ray" in sys.modules:
        return
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    ray.tune = tune  # type: ignore[attr-defined]
    tune.report = _report  # type: ignore[attr-defined]
    sys.modules.update({"ray": ray, "ray.tune": tune})
    try:
        importlib.import_module("recbole.quick_start.quick_start")
    finally:
        del sys.modules["ray"], sys.modules["ray.tune"]


def _patch_collector() -> None:
    """RecBole 1.2.1: metrics beyond accuracy collect numbers and counters too, which are sent to the CPU like tensors."""
    collector = importlib.import_module("recbole.evaluator.collector").Collector
    original = collector.get_data_struct

    @functools.wraps(original)
    def get_data_struct(self: Any) -> Any:
        held = self.data_struct._data_dict
        plain = {name: value for name, value in held.items() if not isinstance(value, torch.Tensor)}
        self.data_struct._data_dict = {name: value for name, value in held.items() if name not in plain}
        found = original(self)
        for struct in (self.data_struct, found):
            struct._data_dict.update(plain)
        return found

    collector.get_data_struct = get_data_struct


def _make_folder(dir_path: str) -> None:
    os.makedirs(dir_path, exist_ok=True)


def _patch_ensure_dir() -> None:
    """RecBole 1.2.1: ``ensure_dir`` looks, then makes the folder; of two processes that start together one fails."""
    original = importlib.import_module("recbole.utils.utils").ensure_dir
    for name, module in list(sys.modules.items()):  # those that come later take theirs from these
        if name.split(".")[0] == "recbole" and vars(module).get("ensure_dir") is original:
            vars(module)["ensure_dir"] = _make_folder


def apply() -> None:
    """Close all gaps; called once, by `on_import.register`."""
    # ray says so where it is used; the bound on setuptools keeps it working
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    # pandas says on every load what RecBole does that pandas 3 will not take; the bound on pandas keeps it working
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    _patch_numpy()
    _patch_scipy()
    _patch_anomaly()
    _import_without_ray()
    _patch_load()
    _patch_other_parameter()
    _patch_collector()
    _patch_ensure_dir()
