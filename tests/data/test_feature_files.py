"""Which feature files a model reads: several side by side, others than are there, columns, vectors from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recbole.data import create_dataset

from dataset_tools.features import import_vectors
from recbole_unisrec import quick_start
from recbole_unisrec.data.feature_files import suffixes
from recbole_unisrec.data.features import scale_features, scaling
from recbole_unisrec.data.make_features import make_features
from recbole_unisrec.errors import UserError
from recbole_unisrec.registry import MODELS
from recbole_unisrec.settings import build_config
from tests.conftest import N_ITEMS, WIDTH

pytestmark = pytest.mark.hardware


def _second(dataset: Path, width: int = 5) -> np.ndarray:
    """Vectors of an image model beside those of the ring's texts, on another scale."""
    rows = (100 + 50 * np.random.default_rng(7).standard_normal((N_ITEMS, width))).astype(np.float32)
    np.save(dataset / "v.npy", rows)
    (dataset / "ids.txt").write_text("".join(f"item-{i}\n" for i in range(N_ITEMS)))
    import_vectors(dataset / "ring", "ring", dataset / "v.npy", dataset / "ids.txt", suffix="featImage")
    return rows


def test_vectors_stand_side_by_side(ring: Path) -> None:
    second = _second(ring)
    config = build_config("UniSRec", "ring", [], {"plm_suffix": ["feat1CLS", "featImage"]})
    table = create_dataset(config).features
    first = np.fromfile(ring / "ring" / "ring.feat1CLS", np.float32).reshape(N_ITEMS, WIDTH)
    assert table.widths == (WIDTH, 5)
    tokens = create_dataset(config).field2id_token["item_id"][1:]
    order = [int(token.removeprefix("item-")) for token in tokens]
    np.testing.assert_array_equal(table.weight[1:].numpy(), np.concatenate([first, second], axis=1)[order])
    assert table.encoder == "random CLS, max_length 512 + vectors of v.npy none, max_length 0"


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_each_file_is_scaled_by_its_own_statistics(how: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 6, generator=generator), 100 + 30 * torch.randn(40, 3, generator=generator)
    padding = torch.zeros(1, 6), torch.zeros(1, 3)
    both = scale_features(torch.cat([torch.cat(padding, 1), torch.cat([a, b], 1)]), how, widths=(6, 3))
    alone = [scale_features(torch.cat([zero, part]), how) for zero, part in zip(padding, (a, b), strict=True)]
    torch.testing.assert_close(both, torch.cat(alone, 1))
    together = scale_features(torch.cat([torch.cat(padding, 1), torch.cat([a, b], 1)]), how)
    if how == "whiten":  # one map for all would mix the files
        assert (both - together).abs().max() > 0.1
    mean, matrix = scaling(torch.cat([a, b], 1), how, (6, 3))
    assert mean.shape == (9,)
    assert not matrix[:6, 6:].any()


@pytest.mark.parametrize(
    ("model", "own"), [("UniSRec", {"text_path": True}), ("SASRecPath", {}), ("ZESRec", {"text_path": True}), ("TextKNN", {})]
)  # fmt: skip
def test_nearest_texts_scale_each_file_too(ring: Path, model: str, own: dict[str, Any]) -> None:
    _second(ring)
    config = build_config(model, "ring", [], {**own, "plm_suffix": ["feat1CLS", "featImage"]})
    train, _, _ = create_dataset(config).build()
    network = MODELS[model].model(config, train)
    columns = network.table if model == "TextKNN" else network.text_path.columns
    parts = [scale_features(part, "whiten") for part in train.features.weight.split([WIDTH, 5], dim=1)]
    torch.testing.assert_close(columns[:, :-1], F.normalize(torch.cat(parts, dim=1), dim=1))


@pytest.mark.parametrize("settings", [{"feature_scaling": "whiten"}, {}])
def test_two_files_are_trained_on(ring: Path, small: dict[str, Any], settings: dict[str, Any]) -> None:
    _second(ring)
    found = {**small, **settings, "train_stage": "inductive_ft", "plm_suffix": ["feat1CLS", "featImage"]}
    result = quick_start.train(build_config("UniSRec", "ring", [], {**found, "epochs": 3}))
    assert result.test["ndcg@3"] > 0
    assert result.config["plm_suffix"] == ["feat1CLS", "featImage"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"plm_suffix": "feat1Mean"}, r"ring\.feat1Mean does not exist; there is ring\.feat1CLS \(random\): take it by --plm_suffix=feat1CLS"),
        ({"plm_suffix": ["feat1CLS", "feat1CLS"]}, "names a feature file twice"),
        ({"plm_suffix": ["feat1CLS", "featImage"], "plm_size": 16}, "plm_size is 16, but plm_suffix names 2 files"),
        ({"plm_suffix": ["feat1CLS", "featImage"], "plm_size": [16, 4]}, "width 5, but plm_size is 4"),
    ],
)  # fmt: skip
def test_mistakes(ring: Path, settings: dict[str, Any], words: str) -> None:
    if isinstance(settings["plm_suffix"], list):
        _second(ring)
    with pytest.raises(UserError, match=words):
        create_dataset(build_config("UniSRec", "ring", [], settings))


@pytest.mark.parametrize("value", [None, "", [], [None], {"a": 1}])
def test_suffixes_that_are_none(value: object) -> None:
    with pytest.raises(UserError, match="plm_suffix must be like feat1CLS"):
        suffixes(value)
    assert suffixes("feat1CLS") == ("feat1CLS",)


def test_other_columns_than_the_setting_names(ring: Path) -> None:
    beside = ring / "ring" / "ring.feat1CLS.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "text_cols": ["title", "brand"]}))
    create_dataset(build_config("UniSRec", "ring", [], {"text_cols": ["title", "brand"]}))
    with pytest.raises(UserError, match=r"made from title, brand, but text_cols names title; add --encode"):
        create_dataset(build_config("UniSRec", "ring", [], {"text_cols": "title"}))


def test_encode_passes_fields_and_columns_on(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = shared / "cases" / "recbole"
    for name in ("named", "amazon_like"):
        shutil.copytree(cases / name, tmp_path / "dataset" / name)
    monkeypatch.chdir(tmp_path)
    named = {"plm_suffix": "feat1LSA"}
    config = build_config("UniSRec", "named", [str(cases / "named.yaml")], {**named, "text_cols": ["maker", "name"]})
    quick_start.prepare(config, "lsa", "CLS", progress=False)
    meta = json.loads(Path("dataset/named/named.feat1LSA.json").read_text())
    assert (meta["text_cols"], meta["rows"]) == (["maker", "name"], 90)
    assert create_dataset(config).item_num == 91
    config = build_config("UniSRec", "amazon_like", [], named)
    quick_start.prepare(config, "lsa", "CLS", progress=False)
    meta = json.loads(Path("dataset/amazon_like/amazon_like.feat1LSA.json").read_text())
    assert meta["text_cols"] == ["categories", "title", "brand"]


def test_recboles_additional_feature_file_is_taken_in(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shared / "cases" / "recbole" / "vectors", tmp_path / "vectors"))
    settings = {
        "plm_suffix": "feat1CLS", "additional_feat_suffix": ["itememb"], "alias_of_item_id": ["iid"],
        "preload_weight": {"iid": "item_emb"},
    }  # fmt: skip
    make_features(folder, "vectors", settings, None, "CLS")
    meta = json.loads((folder / "vectors.feat1CLS.json").read_text())
    assert (meta["vectors"], meta["rows"], meta["width"]) == ("vectors.itememb", 90, 24)
    assert "the item vectors are those of vectors.itememb" in capsys.readouterr().out


def test_several_files_are_not_made_at_once(ring: Path) -> None:
    settings = {"plm_suffix": ["feat1CLS", "featImage"]}
    with pytest.raises(UserError, match="--encode makes one feature file, but plm_suffix names 2"):
        make_features(ring / "ring", "ring", settings, "lsa", "CLS")
    _second(ring)
    make_features(ring / "ring", "ring", settings, "lsa", "CLS")  # both are there
