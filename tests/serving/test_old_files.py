"""Folders of format 1, and a checkpoint of that time (tests/serving/data), still load, and give the numbers that they gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_unisrec.serving import Recommender, load
from tests.conftest import N_ITEMS, write_ring

DATA = Path(__file__).with_name("data")
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())


def check(rec: Recommender, form: str) -> None:
    expected = EXPECTED[form]
    answer = rec.recommend(["item-3", "item-4", "item-5"], k=5)
    assert answer.ids == expected["ids"]
    assert answer.scores == pytest.approx(expected["scores"], abs=1e-5)
    why = rec.explain(["item-3", "item-4"], "item-6")
    assert [weight for *_, weight in why.history] == pytest.approx(expected["weights"], abs=1e-5)
    assert [weight for _, weight in why.experts] == pytest.approx(expected["experts"], abs=1e-5)


@pytest.mark.parametrize("form", ["inductive", "transductive"])
def test_a_folder(form: str, tmp_path: Path) -> None:
    folder = shutil.copytree(DATA / f"{form}-format1", tmp_path / "model")
    rec = load(folder)
    check(rec, form)
    rec.remove_items(["item-20"])
    rec.save(folder)  # in today's format
    again = load(folder)
    assert len(again) == N_ITEMS - 1
    check(again, form)


def test_a_checkpoint(tmp_path: Path) -> None:
    write_ring(tmp_path / "dataset")
    check(load(DATA / "inductive-format1.pth", data_path=tmp_path / "dataset"), "inductive")
