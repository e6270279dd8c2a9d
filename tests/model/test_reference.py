"""The authors' implementation, run on random weights, against ours."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import recbole_unisrec  # noqa: F401
from recbole_unisrec.data.sequences import Segments, bucket_lengths, pack
from recbole_unisrec.model.unisrec import UniSRec
from recbole_unisrec.setting_page import defaults

pytestmark = pytest.mark.hardware

SETTINGS = {
    "n_exps": 3, "adaptor_dropout_prob": 0.0, "temperature": 0.07, "n_layers": 2, "n_heads": 2, "hidden_size": 32,
    "inner_size": 40, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "initializer_range": 0.02, "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "item_length", "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 10, "device": "cpu", "gate_noise": True, "whitening": True, "history_bias": False, "mask_unseen_ids": False, "feature_scaling": "none", "feature_precision": "fp32", "loss": "full",
    "item_optimizer": "auto", "mask_history": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def reference(shared: Path) -> Any:
    return np.load(shared / "reference" / "unisrec_reference.npz")


def load(reference: Any, stage: str) -> UniSRec:
    dataset = SimpleNamespace(
        num=lambda field: 41, features=SimpleNamespace(weight=torch.from_numpy(reference["plm"]), width=48, encoder="")
    )
    model = UniSRec(defaultdict(lambda: None, {**defaults("UniSRec"), **SETTINGS}, train_stage=stage), dataset)
    prefix = f"{stage}/state/"
    state = {k.removeprefix(prefix): torch.from_numpy(reference[k]) for k in reference.files if k.startswith(prefix)}
    model.load_state_dict(state)  # the authors' names, their plm_embedding.weight included
    return model.eval()


def rows(reference: Any) -> dict[str, torch.Tensor]:
    names = {"item_id_list": "item_seq", "item_length": "item_seq_len", "item_id": "target"}
    return {ours: torch.from_numpy(reference[theirs]) for ours, theirs in names.items()}


def packed(reference: Any) -> Any:
    lengths, target = reference["item_seq_len"], reference["target"]
    flat = [np.r_[seq[:n], t] for seq, n, t in zip(reference["item_seq"], lengths, target, strict=True)]
    stop = torch.from_numpy(np.cumsum([len(f) for f in flat]))
    start = stop - torch.from_numpy(lengths) - 1
    segments = Segments(torch.from_numpy(np.concatenate(flat)), start, stop, torch.from_numpy(lengths))
    return pack(segments, torch.arange(len(flat)), bucket_lengths(10))


@pytest.mark.parametrize("stage", ["inductive_ft", "transductive_ft"])
@pytest.mark.parametrize("form", [rows, packed], ids=["prefix", "packed"])
def test_loss_and_gradients(reference: Any, stage: str, form: Any) -> None:
    model = load(reference, stage)
    loss = model.calculate_loss(form(reference))
    assert loss.item() == pytest.approx(float(reference[f"{stage}/loss"]), rel=1e-5)
    loss.backward()
    scale = max(float(np.abs(reference[k]).max()) for k in reference.files if k.startswith(f"{stage}/grad/"))
    for name, parameter in model.named_parameters():
        key = f"{stage}/grad/{name}"
        if key not in reference.files:
            assert name == "moe_adaptor.w_noise"  # takes no part without noise
            continue
        expected = torch.from_numpy(reference[key])
        # the gradient of a key bias is zero but for rounding, hence the absolute part
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("stage", ["inductive_ft", "transductive_ft"])
def test_scores_and_adapted_items(reference: Any, stage: str) -> None:
    model = load(reference, stage)
    with torch.no_grad():
        scores = model.full_sort_predict(rows(reference))
    torch.testing.assert_close(scores, torch.from_numpy(reference[f"{stage}/scores"]), rtol=1e-5, atol=1e-6)
    expected = torch.from_numpy(reference[f"{stage}/adapted_items"])
    with torch.no_grad():
        adapted = model.moe_adaptor(model.features)
    torch.testing.assert_close(adapted, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_pairs_are_what_the_file_says(reference: Any) -> None:
    batch = packed(reference)
    assert sorted(batch.target.tolist()) == sorted(reference["target"].tolist())
