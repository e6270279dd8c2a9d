"""Fixtures: the shared real data, and a small dataset with a planted pattern."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_unisrec  # noqa: F401 - first, as it closes RecBole's gaps

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
N_USERS, N_ITEMS, WIDTH = 90, 24, 16


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # so small that threads only wait; and sums come out bit for bit as in other processes


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED} does not exist")
    return SHARED


def write_ring(folder: Path, name: str = "ring", seed: int = 0) -> Path:
    """A dataset with a planted pattern: items stand in a ring, and each user walks it step by step from anywhere."""
    rng = np.random.default_rng(seed)
    target = folder / name
    target.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(N_USERS):
        start, length = rng.integers(N_ITEMS), rng.integers(4, 14)
        lines += [f"u{user}\titem-{(start + t) % N_ITEMS}\t{1000 + t}" for t in range(length)]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n")
    index = [f"item-{i}\t{i}" for i in range(N_ITEMS)]
    (target / f"{name}.item2index").write_text("\n".join(index) + "\n")
    texts = ["item_id:token\ttext:token_seq", *(f"item-{i}\tthing number {i}" for i in range(N_ITEMS))]
    (target / f"{name}.item").write_text("\n".join(texts) + "\n")
    features = rng.standard_normal((N_ITEMS, WIDTH)).astype(np.float32)
    features.tofile(target / f"{name}.feat1CLS")
    meta = {"encoder": "random", "pooling": "CLS", "width": WIDTH, "rows": N_ITEMS, "dtype": "float32"}
    (target / f"{name}.feat1CLS.json").write_text(json.dumps(meta))
    return target


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder ``dataset/`` with the ring in it; the working directory lies above it."""
    monkeypatch.chdir(tmp_path)
    write_ring(tmp_path / "dataset")
    return tmp_path / "dataset"


SMALL = {
    "hidden_size": 16, "inner_size": 16, "n_exps": 3, "MAX_ITEM_LIST_LENGTH": 8, "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1, "adaptor_dropout_prob": 0.0, "train_batch_size": 128, "learning_rate": 0.01,
    "epochs": 8, "show_progress": False, "topk": [3], "valid_metric": "NDCG@3", "use_gpu": False,
}  # fmt: skip


@pytest.fixture
def small() -> dict[str, object]:
    """Settings of a model that learns the ring in seconds."""
    return dict(SMALL)
