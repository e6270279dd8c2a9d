"""A tiny mixture: two domains, in each of which users walk a ring of items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.mixture import build_mixture
from tests.conftest import write_ring


def write_mixture(folder: Path) -> Path:
    """``dataset/`` with the domains a and b, both with plain and word-drop features, and their mixture ``ab``."""
    for seed, name in enumerate(("a", "b")):
        domain = write_ring(folder, name, seed)
        plain = np.fromfile(domain / f"{name}.feat1CLS", dtype=np.float32)
        noise = np.random.default_rng(9).standard_normal(len(plain)).astype(np.float32)
        (plain + 0.1 * noise).tofile(domain / f"{name}.feat2CLS")
        shutil.copy(domain / f"{name}.feat1CLS.json", domain / f"{name}.feat2CLS.json")
    build_mixture(["a", "b"], folder, "ab")
    return folder


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ``dataset/``; the working directory lies above it."""
    monkeypatch.chdir(tmp_path)
    return write_mixture(tmp_path / "dataset")


TINY = {
    "hidden_size": 16, "inner_size": 16, "n_exps": 3, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 128,
    "learning_rate": 0.01, "epochs": 3, "show_progress": False, "use_gpu": False, "valid_users": 4,
    "save_step": 1, "item_drop_coefficient": 0.5,
}  # fmt: skip


@pytest.fixture
def tiny() -> dict[str, object]:
    """Settings of a model that pre-trains on the tiny mixture in seconds."""
    return dict(TINY)


def edit_json(path: Path, **values: object) -> None:
    """Change values of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
