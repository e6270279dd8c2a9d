"""Losses over a sample, against a slow way to write them down."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_unisrec.data.sequences import seen_of_padded
from recbole_unisrec.model import sampled_losses
from recbole_unisrec.model.losses import softmax_cross_entropy
from recbole_unisrec.model.sampled_losses import gbce_beta, gbce_offset, sampled_loss

pytestmark = pytest.mark.hardware
N, P, M, D = 9, 11, 5, 4


def slow(
    hidden: Tensor, table: Tensor, target: Tensor, negative: Tensor, weight: Tensor, scale: float, beta: float | None,
    extra: Tensor,
) -> Tensor:  # fmt: skip
    """Pair by pair, negative by negative; `extra` [P, N] is added to the scores."""
    total = hidden.new_zeros(())
    for p in range(len(hidden)):
        scores = (hidden[p] @ table.T + extra[p]) * scale
        others = [(i, w) for i, w in zip(negative.tolist(), weight, strict=True) if i != int(target[p])]
        if beta is None:
            below = scores[target[p]].exp() + sum((w * scores[i].exp() for i, w in others), hidden.new_zeros(()))
            total = total - (scores[target[p]].exp() / below).log()
        else:
            offset = (beta / weight.sum()).log()
            right = (torch.sigmoid(scores[target[p]] + offset) ** beta).log()
            wrong = sum((w * (1 - torch.sigmoid(scores[i] + offset)).log() for i, w in others), hidden.new_zeros(()))
            total = total - (right + wrong)
    return total / len(hidden)


@pytest.mark.parametrize("beta", [None, 1.0, 0.3])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("per_block", [5, 4_000_000])
def test_loss_and_gradients_equal_the_slow_way(
    beta: float | None, with_bias: bool, per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_losses, "LOGITS_PER_BLOCK", per_block)
    torch.manual_seed(0)
    hidden = torch.randn(P, D, dtype=torch.float64, requires_grad=True)
    table = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    item_seq, length = torch.randint(N, (P, 6)), torch.randint(1, 7, (P,))  # items repeat, some are negatives or next
    target = torch.where(torch.arange(P) % 2 == 0, item_seq[:, 0], torch.randint(N, (P,)))
    negative = torch.randperm(N)[:M]
    assert torch.isin(target, negative).any()
    log_weight = torch.randn(M, dtype=torch.float64)
    extra = hidden.new_zeros(P, N)
    seen = seen_of_padded(item_seq, length) if with_bias else None
    if seen is not None:
        extra = extra.index_put((seen.row, seen.item), bias[seen.distance], accumulate=True)
    wanted = (hidden, table, bias) if with_bias else (hidden, table)
    plain = slow(hidden, table, target, negative, log_weight.exp(), 1.7, beta, extra)
    ours = sampled_loss(
        hidden, table, target, negative, log_weight, 1.7, beta, seen=seen,
        bias=None if seen is None else bias[seen.distance],
    )  # fmt: skip
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours * 2, wanted), torch.autograd.grad(plain * 2, wanted))


def test_with_all_items_for_negatives_it_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(P, D, dtype=torch.float64, requires_grad=True)
    table = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    target = torch.randint(N, (P,))
    full = softmax_cross_entropy(hidden, table, target, 2.0)
    ours = sampled_loss(hidden, table, target, torch.arange(N), torch.zeros(N), 2.0)
    torch.testing.assert_close(ours, full)
    torch.testing.assert_close(torch.autograd.grad(ours, (hidden, table)), torch.autograd.grad(full, (hidden, table)))


def test_extreme_scores_stay_finite() -> None:
    for beta in (None, 0.5):
        hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
        table = torch.tensor([[1.0], [-1.0], [0.0]])
        loss = sampled_loss(hidden, table, torch.tensor([0, 0]), torch.tensor([0, 1]), torch.zeros(2), 10.0, beta)
        loss.backward()
        assert torch.isfinite(loss)
        assert hidden.grad is not None
        assert torch.isfinite(hidden.grad).all()


def test_bfloat16_products_stay_close() -> None:
    torch.manual_seed(0)
    hidden, table = F.normalize(torch.randn(64, 32)), F.normalize(torch.randn(50, 32))
    target, negative = torch.randint(50, (64,)), torch.randperm(50)[:30]
    for beta in (None, 0.5):
        exact = sampled_loss(hidden, table, target, negative, torch.zeros(30), 14.0, beta)
        half = sampled_loss(hidden, table, target, negative, torch.zeros(30), 14.0, beta, torch.bfloat16)
        assert half == pytest.approx(exact.item(), rel=1e-2)


def test_beta_of_the_paper() -> None:
    assert gbce_beta(256, 10_001, 0.0) == pytest.approx(1.0)
    assert gbce_beta(256, 10_001, 1.0) == pytest.approx(0.0256)
    assert gbce_beta(1, 101, 0.75) == pytest.approx(0.01 * (0.75 * (1 - 100) + 100))


def test_gbce_of_one_pair_by_hand() -> None:
    beta = gbce_beta(2, 5, 0.75)  # half of the four other items: 0.5·(0.75·(1 − 2) + 2)
    assert beta == 0.625
    hidden, table = torch.tensor([[2.0]]).double(), torch.tensor([[0.5], [-1.0], [0.25]]).double()
    target, negative, drawn = torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([3.0, 1.0]).double()
    b = math.log(0.625 / 4)
    right = 0.625 * math.log(1 + math.exp(-(1.0 + b)))
    wrong = 3 * math.log(1 + math.exp(-2.0 + b)) + math.log(1 + math.exp(0.5 + b))
    assert sampled_loss(hidden, table, target, negative, drawn.log(), beta=beta).item() == pytest.approx(right + wrong)


def test_gbce_begins_where_pull_and_push_balance() -> None:
    hidden = torch.zeros(3, 1, dtype=torch.float64)
    table = torch.zeros(7, 1, dtype=torch.float64)
    bias = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)  # of the positive and of one negative of each
    seen = seen_of_padded(torch.tensor([[0, 1], [0, 2], [0, 3]]), torch.tensor([2, 2, 2]))
    beta, drawn = 0.4, torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    loss = sampled_loss(
        hidden, table, torch.zeros(3, dtype=torch.int64), torch.arange(1, 7), drawn.log(), beta=beta, seen=seen, bias=bias.flatten()
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, bias)
    negative, positive = gradient.T * 3  # the last item comes first
    torch.testing.assert_close(negative / drawn[:3] * drawn.sum(), -positive)
    assert gbce_offset(beta, drawn.sum()).item() == pytest.approx(math.log(0.4 / 7))
