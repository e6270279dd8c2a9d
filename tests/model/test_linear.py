import pytest
import torch
import torch.nn.functional as F

from recbole_unisrec.model.linear import linear, missing

pytestmark = pytest.mark.hardware


@pytest.mark.parametrize(("k", "n"), [(3, 5), (16, 5), (3, 16), (32, 48)])
def test_equals_the_library(k: int, n: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, k), (n, k), (n,))]
    ours, expected = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, expected)
    weights = torch.randn_like(expected)
    grads = [torch.autograd.grad((result * weights).sum(), inputs) for result in (ours, expected)]
    torch.testing.assert_close(grads[0], grads[1])
    with torch.no_grad():
        torch.testing.assert_close(linear(*inputs), expected)


def test_widths_are_filled_up_to_multiples() -> None:
    assert [missing(width) for width in (1, 15, 16, 300)] == [15, 1, 0, 4]
