"""The examples in docstrings are run, in a folder where a dataset (``dataset/ring``) and a saved model (``model``) lie."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

import recbole_unisrec
from recbole_unisrec import quick_start
from recbole_unisrec.settings import build_config
from tests.conftest import SMALL, write_ring

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("dataset_tools", "recbole_unisrec")
    for file in sorted((ROOT / package).rglob("*.py"))
    if ">>>" in file.read_text(encoding="utf-8")
]
PUBLIC = ("recbole_unisrec", "recbole_unisrec.quick_start", "recbole_unisrec.settings", "dataset_tools.features.store")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ring and a model of it."""
    folder = tmp_path_factory.mktemp("examples")
    write_ring(folder / "dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings: dict[str, Any] = {**SMALL, "train_stage": "inductive_ft", "epochs": 10}
        result = quick_start.train(build_config("UniSRec", "ring", [], settings), tell=lambda line: None)
        recbole_unisrec.load(result.checkpoint).save("model")
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


def test_what_a_python_user_calls_has_an_example() -> None:
    assert not set(PUBLIC) - set(MODULES)
