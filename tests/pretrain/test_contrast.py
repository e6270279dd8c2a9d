"""The two tasks against the authors' values, and the block-wise contrast against the formula."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import recbole_unisrec  # noqa: F401
from recbole_unisrec.pretrain import contrast as module
from recbole_unisrec.pretrain.batch import make_batch
from recbole_unisrec.pretrain.contrast import contrast
from recbole_unisrec.pretrain.model import UniSRecPretrain
from recbole_unisrec.pretrain.views import Rows, word_drop
from recbole_unisrec.setting_page import defaults

pytestmark = pytest.mark.hardware

SETTINGS = {
    "n_exps": 3, "adaptor_dropout_prob": 0.0, "temperature": 0.07, "n_layers": 2, "n_heads": 2, "hidden_size": 32,
    "inner_size": 40, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "initializer_range": 0.02, "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "item_length", "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 10, "device": "cpu", "gate_noise": True, "whitening": True, "history_bias": False, "lambda": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def reference(shared: Path) -> Any:
    return np.load(shared / "reference" / "unisrec_reference.npz")


def end_to_end(seq: np.ndarray, length: np.ndarray) -> Rows:
    flat = [s[:n] for s, n in zip(seq, length, strict=True)]
    return Rows(torch.from_numpy(np.concatenate(flat)), torch.from_numpy(length), torch.from_numpy(length.cumsum() - 1))


@pytest.mark.parametrize("view", ["word_drop", "item_drop"])
@pytest.mark.parametrize(("masking", "kind"), [("exclude", "masked"), ("authors", "upstream")])
def test_agrees_with_the_authors(reference: Any, view: str, masking: str, kind: str) -> None:
    features = SimpleNamespace(width=48, encoder="")
    settings = defaultdict(lambda: None, {**defaults("UniSRecPretrain"), **SETTINGS}, contrastive_masking=masking)
    model = UniSRecPretrain(settings, SimpleNamespace(features=features))
    prefix = "pretrain/state/"
    state = {k.removeprefix(prefix): torch.from_numpy(reference[k]) for k in reference.files if k.startswith(prefix)}
    model.load_state_dict(state)
    model.eval()
    plain = end_to_end(reference["item_seq"], reference["item_seq_len"])
    if view == "item_drop":
        other = end_to_end(reference["pretrain/item_drop_seq"], reference["pretrain/item_drop_len"])
    else:
        mask, length = reference["pretrain/word_keep_mask"], reference["item_seq_len"]
        keep = [row[:n] for row, n in zip(mask, length, strict=True)]
        other = word_drop(plain, torch.from_numpy(np.concatenate(keep)).double(), 0.5, 41)
        assert int((other.items >= 41).sum()) == int((~np.concatenate(keep)).sum()) > 0
    table = torch.from_numpy(np.concatenate([reference["plm"], reference["plm_aug"]]))
    batch = make_batch(plain, other, torch.from_numpy(reference["target"]), table, 82)
    seq_item, seq_seq = model.task_losses(batch)
    assert seq_item.item() == pytest.approx(float(reference[f"pretrain/{view}/{kind}_loss_seq_item"]), rel=1e-5)
    # their −log(exp/Σexp) near 0 is exact to 1e-6 only: in float64 both codes give 0.0186818 for a stored 0.0186808
    expected = float(reference[f"pretrain/{view}/{kind}_loss_seq_seq"])
    assert seq_seq.item() == pytest.approx(expected, rel=1e-5, abs=2e-6 if masking == "authors" else 0)
    total = (
        reference[f"pretrain/{view}/{kind}_loss_seq_item"] + 1e-3 * reference[f"pretrain/{view}/{kind}_loss_seq_seq"]
    )
    assert model.calculate_loss(batch).item() == pytest.approx(float(total), rel=1e-5)
    if view == "item_drop":
        outputs = model.outputs_in_parts(batch.plain, model.moe_adaptor(batch.features))[batch.plain_order]
        torch.testing.assert_close(
            outputs, torch.from_numpy(reference["pretrain/seq_output_normalized"]), rtol=1e-5, atol=1e-6
        )


def plain_contrast(
    q: torch.Tensor, k: torch.Tensor, ids: torch.Tensor, t: float, masking: str, owner: torch.Tensor | None = None
) -> torch.Tensor:
    logits = q @ k.T / t
    others = ~torch.eye(len(ids), dtype=torch.bool)
    same = (ids[:, None] == ids) & others
    logits = logits.masked_fill(same, float("-inf") if masking == "exclude" else 0.0)
    if owner is not None:
        logits = logits.masked_fill((owner[:, None] == owner) & others, float("-inf"))
    return (logits.logsumexp(1) - (q * k).sum(1) / t).sum()


@pytest.mark.parametrize("masking", ["exclude", "authors"])
@pytest.mark.parametrize("block", [7, 4_000_000])
@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 0.01])  # without and with maxima taken off
def test_blocks_give_the_formula_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, masking: str, block: int, owned: bool, temperature: float
) -> None:
    monkeypatch.setattr(module, "LOGITS_PER_BLOCK", block * 33)
    torch.manual_seed(0)
    q, k = (torch.nn.functional.normalize(torch.randn(33, 6, dtype=torch.float64), dim=1) for _ in range(2))
    ids = torch.randint(0, 9, (33,))
    owner = torch.arange(33) // 4 if owned else None
    values = []
    for loss in (contrast, plain_contrast):
        a, b = q.clone().requires_grad_(), k.clone().requires_grad_()
        value = loss(a, b, ids, temperature, masking, owner)
        (value * 0.5).backward()
        values.append((value.detach(), a.grad, b.grad))
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_rows_of_one_process_against_all_keys() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
    ids = torch.tensor([1, 2, 1, 3, 3, 3, 4, 1, 5, 2])
    owner = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
    parts = [contrast(q[a:b], k, ids, 0.5, owner=owner, first=a) for a, b in ((0, 3), (3, 10))]
    torch.testing.assert_close(sum(parts), contrast(q, k, ids, 0.5, owner=owner))


def test_stable_where_the_authors_formula_overflows() -> None:
    q = torch.nn.functional.normalize(torch.randn(16, 8), dim=1).requires_grad_()
    loss = contrast(q, q.detach(), torch.arange(16), 1e-3, dtype=torch.bfloat16)
    assert not torch.isfinite(torch.exp((q @ q.T) / 1e-3)).all()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(q.grad).all()


def test_a_batch_of_one_and_a_batch_of_one_item_have_no_negatives() -> None:
    q = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    assert contrast(q[:1], q[:1], torch.tensor([3]), 0.07).item() == pytest.approx(0, abs=1e-6)
    assert contrast(q, q, torch.tensor([3, 3, 3, 3]), 0.07).item() == pytest.approx(0, abs=1e-5)
    assert contrast(q, q, torch.arange(4), 0.07, owner=torch.zeros(4).long()).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="contrastive_masking"):
        contrast(q, q, torch.arange(4), 0.07, "none")
