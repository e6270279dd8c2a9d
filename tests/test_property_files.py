"""Whole property files in the shapes that people publish, through RecBole's own function and through the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from recbole.data.dataset import SequentialDataset
from recbole.quick_start import run_recbole

from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.settings import build_config
from tests.data.test_recbole_settings import SESSIONS, write, write_sessions

RATED = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
SHAPES: dict[str, dict[str, Any]] = {
    "MovieLens": {
        "load_col": {**RATED, "item": ["item_id", "title", "brand"]}, "train_neg_sample_args": None, "eval_batch_size": 4096,
        "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"], "topk": 10, "valid_metric": "MRR@10",
    },
    "benchmark of sequential models": {
        "load_col": RATED, "user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)",
        "val_interval": {"rating": "[3,inf)"}, "MAX_ITEM_LIST_LENGTH": 20, "loss_type": "CE", "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "valid_metric": "MRR@10", "metrics": ["Recall", "MRR"], "topk": [10],
    },
    "sampled in one phase": {
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": {"valid": "uni10", "test": "full"}},
        "metrics": ["Hit"], "topk": [5], "valid_metric": "Hit@5",
    },
    "ratio": {
        "load_col": RATED, "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "TO"},
        "metrics": ["NDCG"], "topk": [10, 20], "valid_metric": "NDCG@10",
    },
    "no duplicates, users and items": {
        "load_col": None, "rm_dup_inter": "last", "filter_inter_by_user_or_item": True, "val_interval": {"age": "[25,inf)"},
        "topk": [5, 10], "metrics": ["NDCG"],
    },
    "labels": {"load_col": RATED, "threshold": {"rating": 4}, "LABEL_FIELD": "label", "topk": [5, 10], "metrics": ["NDCG"]},
    "one file for several models": {
        "mask_ratio": 0.2, "embedding_size": 64, "num_layers": 1, "n_layers": 2, "eval_setting": "TO_LS,full",
        "neg_sampling": None, "metrics": ["NDCG"], "topk": [10], "valid_metric": "NDCG@10",
    },
    "sessions": {**SESSIONS, "MAX_ITEM_LIST_LENGTH": 12, "metrics": ["Recall", "MRR"], "topk": [10], "valid_metric": "MRR@10"},
}  # fmt: skip
OUR_OWN = {"one file for several models"}  # RecBole's Config takes no names of 0.x, and no time without load_col


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder ``dataset/`` with ratings and with sessions, both with text features; the working directory lies above it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])
    for folder in (write(tmp_path / "dataset" / "x"), write_sessions(tmp_path / "dataset" / "s", backwards=True)):
        rng, name = np.random.default_rng(0), folder.name
        (folder / f"{name}.item2index").write_text("".join(f"i{i}\t{i}\n" for i in range(30)))
        rng.standard_normal((30, 16)).astype(np.float32).tofile(folder / f"{name}.feat1CLS")
        meta = {"encoder": "random", "pooling": "CLS", "width": 16, "rows": 30, "dtype": "float32"}
        (folder / f"{name}.feat1CLS.json").write_text(json.dumps(meta))
    return tmp_path / "dataset"


@pytest.mark.parametrize("shape", SHAPES)
def test_what_runs_with_sasrec_runs_with_unisrec_on_the_same_pairs(data: Path, shape: str) -> None:
    name = "s" if shape == "sessions" else "x"
    Path("own.yaml").write_text(yaml.safe_dump(SHAPES[shape], sort_keys=False))
    common = ["--dataset", name, "--config", "own.yaml", "--epochs", "1"]
    common += ["--use_gpu=False", "--show_progress=False", "--hidden_size=16"]
    assert run_cli(train_command, ["--model", "UniSRec", "SASRec", *common]) == 0
    cards = [json.loads(file.read_text()) for file in sorted(Path("saved").glob("*.json"))]
    assert sorted(card["model"] for card in cards) == ["SASRec", "UniSRec"]
    assert set(cards[0]["test"]) == set(cards[1]["test"])
    assert all(np.isfinite(list(card["test"].values())).all() for card in cards)
    theirs = SequentialDataset(build_config("SASRec", name, ["own.yaml"], _times(shape)))
    ours = SequenceDataset(build_config("SASRecPacked", name, ["own.yaml"], {}))
    assert [len(part.inter_feat) for part in theirs.build()] == [len(part.inter_feat) for part in ours.build()]
    assert (theirs.user_num, theirs.item_num) == (ours.user_num, ours.item_num)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in OUR_OWN])
def test_run_recbole_takes_the_same_file(data: Path, shape: str) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(SHAPES[shape], sort_keys=False))
    found = run_recbole(
        model="UniSRec", dataset="s" if shape == "sessions" else "x", config_file_list=["own.yaml"], saved=False,
        config_dict={"epochs": 1, "use_gpu": False, "show_progress": False, "hidden_size": 16},
    )  # fmt: skip
    assert found["test_result"]


def _times(shape: str) -> dict[str, Any]:
    """RecBole loads no times unless it is told to."""
    return {} if "load_col" in SHAPES[shape] else {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("FDSA", {"selected_features": ["brand"]}),
        ("SASRecF", {"selected_features": ["brand", "title"]}),
        ("S3Rec", {"item_attribute": "title", "train_stage": "pretrain"}),
    ],
)
def test_the_users_own_features_of_items(data: Path, model: str, own: dict[str, Any]) -> None:
    """Columns that are named are loaded, whether or not load_col says so."""
    for columns in ({}, {"load_col": {**RATED, "item": ["item_id", "brand", "title"]}}):
        config = build_config(model, "x", [], {**own, **columns, "epochs": 1})
        dataset = SequentialDataset(config)
        named = own.get("selected_features", [own.get("item_attribute")])
        assert set(named) <= set(dataset.item_feat.columns)
        assert config["selected_features"] == own.get("selected_features", config["selected_features"])


def test_split_files_that_are_not_leave_one_out_are_taken_as_given(data: Path) -> None:
    """Without benchmark_filename too: the layout says it."""
    own = {k: v for k, v in SESSIONS.items() if k not in ("benchmark_filename", "load_col")}
    dataset = SequenceDataset(build_config("SASRecPacked", "s", [], own))
    assert dataset.layout == "given"
    theirs = SequentialDataset(build_config("SASRec", "s", [], SESSIONS))
    assert [len(part.inter_feat) for part in dataset.build()] == [len(part.inter_feat) for part in theirs.build()]
