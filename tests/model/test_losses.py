import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_unisrec.data.sequences import seen_of_padded
from recbole_unisrec.metrics import rank_metrics
from recbole_unisrec.model import losses
from recbole_unisrec.model.losses import softmax_cross_entropy, target_ranks

pytestmark = pytest.mark.hardware


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_blocked_cross_entropy_equals_the_plain_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_rows_per_block", lambda *_: rows)
    torch.manual_seed(0)
    hidden = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(7, (10,))
    plain = F.cross_entropy(hidden @ table.T * 3.0, target)
    expected = torch.autograd.grad(plain * 2, (hidden, table))
    ours = softmax_cross_entropy(hidden, table, target, scale=3.0)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours * 2, (hidden, table)), expected)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("bound", [12.0, math.inf])
def test_columns_that_do_not_learn(rows: int, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_rows_per_block", lambda *_: rows)
    torch.manual_seed(0)
    hidden = torch.randn(10, 7, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    fixed = torch.randn(9, 3, dtype=torch.float64)
    target = torch.randint(9, (10,))
    plain = F.cross_entropy(hidden @ torch.cat([table, fixed], dim=1).T * 3.0, target)
    ours = softmax_cross_entropy(hidden, table, target, 3.0, bound=bound, fixed=fixed)
    torch.testing.assert_close(ours, plain)
    wanted = (hidden, table)
    torch.testing.assert_close(torch.autograd.grad(ours * 2, wanted), torch.autograd.grad(plain * 2, wanted))


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("bounded", [False, True])
def test_cross_entropy_with_a_bias_for_the_history(rows: int, bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_rows_per_block", lambda *_: rows)
    torch.manual_seed(0)
    hidden = F.normalize(torch.randn(10, 4, dtype=torch.float64)).requires_grad_()
    table = F.normalize(torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    item_seq, length = torch.randint(7, (10, 5)), torch.randint(1, 6, (10,))  # items repeat, targets are among them
    target = item_seq[torch.arange(10), length - 1]
    target[:5] = torch.randint(7, (5,))
    seen = seen_of_padded(item_seq, length)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    scores = hidden @ table.T
    for row in range(10):
        for ago in range(int(length[row])):
            scores = scores + weight[ago] * F.one_hot(torch.tensor([row]), 10).T * F.one_hot(
                item_seq[row, length[row] - 1 - ago], 7
            )
    plain = F.cross_entropy(scores * 3.0, target)
    ours = softmax_cross_entropy(
        hidden, table, target, 3.0, bound=3.0 if bounded else math.inf, seen=seen, bias=weight[seen.distance]
    )
    torch.testing.assert_close(ours, plain)
    wanted = (hidden, table, weight)
    torch.testing.assert_close(torch.autograd.grad(ours * 2, wanted), torch.autograd.grad(plain * 2, wanted))
    with torch.no_grad():
        ranks = target_ranks(hidden, table, target.clamp(min=1), seen, weight[seen.distance])
        assert ranks.tolist() == losses.ranks_of_scores(scores, target.clamp(min=1)).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [20.0, 0.1])
def test_biases_of_an_item_taken_many_times_add_up(dtype: torch.dtype, weight: float) -> None:
    torch.manual_seed(0)
    hidden = F.normalize(torch.randn(6, 4)).requires_grad_()
    table = F.normalize(torch.randn(9, 4)).requires_grad_()
    item_seq = torch.full((6, 200), 3)
    item_seq[3:, ::7] = 5  # another one 29 times
    seen, length = seen_of_padded(item_seq, torch.full((6,), 200)), torch.full((6, 1), 200)
    bias = torch.full((len(seen.row),), weight / 10).requires_grad_()
    target = torch.tensor([3, 3, 4, 5, 3, 1])
    times = torch.stack([(item_seq == item).sum(dim=1) for item in range(9)], dim=1)
    assert times.sum(dim=1, keepdim=True).equal(length)
    scores = hidden.double() @ table.double().T + times * (weight / 10)  # 4,000 logits at most
    plain = F.cross_entropy(scores * 10, target)
    ours = softmax_cross_entropy(hidden, table, target, 10.0, dtype, bound=10.0, seen=seen, bias=bias)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(ours.double(), plain, **close)
    wanted = torch.autograd.grad(plain, (hidden, table))
    found = torch.autograd.grad(ours, (hidden, table, bias))
    torch.testing.assert_close(found[:2], wanted, **close)
    share = F.softmax(scores.detach() * 10, dim=1) - F.one_hot(target, 9)
    torch.testing.assert_close(found[2].double(), share[seen.row, seen.item] * 10 / 6, **close)


def test_extreme_scores_stay_finite() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    loss = softmax_cross_entropy(hidden, torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([0, 0]), scale=10.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


def test_bfloat16_products_stay_close() -> None:
    torch.manual_seed(0)
    hidden, table = F.normalize(torch.randn(64, 32)), F.normalize(torch.randn(50, 32))
    target = torch.randint(50, (64,))
    exact = softmax_cross_entropy(hidden, table, target, 14.0)
    assert softmax_cross_entropy(hidden, table, target, 14.0, torch.bfloat16) == pytest.approx(exact.item(), rel=1e-2)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ranks_equal_a_stable_sort(data: st.DataObject) -> None:
    n_items, batch = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 8))
    values = st.integers(-2, 2)  # few values, many ties
    hidden = torch.tensor(data.draw(st.lists(values, min_size=batch, max_size=batch))).double().unsqueeze(1)
    table = torch.tensor(data.draw(st.lists(values, min_size=n_items, max_size=n_items))).double().unsqueeze(1)
    target = torch.tensor(data.draw(st.lists(st.integers(1, n_items - 1), min_size=batch, max_size=batch)))
    scores = hidden @ table.T
    scores[:, 0] = -torch.inf
    order = scores.argsort(dim=1, descending=True, stable=True)
    expected = (order == target.unsqueeze(1)).nonzero()[:, 1] + 1
    assert target_ranks(hidden, table, target).tolist() == expected.tolist()


def test_metrics_of_known_ranks() -> None:
    found = rank_metrics(torch.tensor([1, 3, 11]), ["hit", "ndcg", "mrr"], [10])
    assert found == pytest.approx({"hit@10": 2 / 3, "ndcg@10": 1.5 / 3, "mrr@10": (1 + 1 / 3) / 3})


def test_nan_never_ranks_well() -> None:
    hidden, table = torch.tensor([[1.0], [torch.nan]]), torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert target_ranks(hidden, table, torch.tensor([3, 3])).tolist() == [1, 5]
    table[1] = torch.nan
    assert target_ranks(hidden[:1], table, torch.tensor([3])).tolist() == [2]
