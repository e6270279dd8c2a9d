import pytest
import torch
import torch.nn.functional as F

from recbole_unisrec.model.dropout import Dropout, dropout, keep_mask
from recbole_unisrec.model.encoder import MultiHeadAttention, Rows, attend

pytestmark = pytest.mark.hardware


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_drops_the_share_that_was_asked_for(p: float) -> None:
    torch.manual_seed(0)
    keep = keep_mask(torch.Size([1000, 1001]), p)
    share = 1 - keep.double().mean().item()
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / keep.numel()) ** 0.5 + 1e-5)
    # neighbours share a 64-bit draw; they must not depend on each other
    pairs = torch.stack([keep.flatten()[:-1], keep.flatten()[1:]]).double()
    assert abs(torch.corrcoef(pairs)[0, 1].item()) < 5e-3


def test_forward_and_backward_use_one_mask() -> None:
    torch.manual_seed(0)
    x = torch.rand(50, 7, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.25, training=True)
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y, x * kept / 0.75)
    torch.testing.assert_close(x.grad, kept / 0.75, check_dtype=False)


def test_seed_decides_and_evaluation_keeps_all() -> None:
    x, module = torch.rand(40, 3), Dropout(0.5)
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert torch.equal(module.eval()(x), x)
    assert not dropout(x, 1.0, training=True).any()


def test_probability_is_checked() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)


def test_attention_equals_the_library_for_any_mixture_of_lengths() -> None:
    torch.manual_seed(0)
    buckets = [(5, 1), (3, 2), (2, 9), (1, 40)]
    total = sum(n * length for n, length in buckets)
    qkv = torch.randn(total, 3 * 12, dtype=torch.float64)
    rows = Rows.of(buckets, qkv.device)
    query, key, value = rows.split(qkv.view(-1, 3, 2, 6))
    ours = attend(query, key, value, rows.mask, 0.0, query.shape[-1] ** -0.5).transpose(1, 2).reshape(-1, 12)[:total]
    start = 0
    for n, length in buckets:
        for _ in range(n):
            q, k, v = qkv[start : start + length].view(length, 3, 2, 6).permute(1, 2, 0, 3)
            expected = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(length, 12)
            torch.testing.assert_close(ours[start : start + length], expected)
            start += length


def test_heads_filled_up_with_zeros_attend_alike() -> None:
    torch.manual_seed(0)
    layer = MultiHeadAttention(2, 12, 0.0, 0.0, 1e-12).double()
    x, rows = torch.randn(9, 12, dtype=torch.float64), Rows.of([(2, 1), (1, 7)], torch.device("cpu"))
    projections = (layer.query, layer.key, layer.value)
    wide = layer.project(x, projections, lanes=8)  # heads of 6
    assert wide.shape == (9, 3, 2, 8)
    assert not wide[..., 6:].any()
    torch.testing.assert_close(wide[..., :6], layer.project(x, projections))
    plain, filled = (attend(*rows.split(qkv), rows.mask, 0.0, 6**-0.5) for qkv in (wide[..., :6], wide))
    torch.testing.assert_close(filled[..., :6], plain)


def test_attention_with_dropout_is_right_on_average() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5
    exact = attend(query, key, value, mask, 0.0, scale)
    mean = torch.stack([attend(query, key, value, mask, 0.3, scale) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, exact, atol=0.08, rtol=0.0)
