import pytest
import torch

from recbole_unisrec.model.encoder import CausalTransformer, Rows

pytestmark = pytest.mark.hardware

BUCKETS = [(3, 1), (2, 2), (2, 5), (1, 7)]
LAST = [0, 1, 2, 4, 6, 10, 16, 22]  # of sequences that fill their bucket or are shorter


def encoder(dropout: float = 0.0) -> CausalTransformer:
    torch.manual_seed(0)
    module = CausalTransformer(2, 2, 6, 10, dropout, dropout).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def test_last_rows_alone_equal_those_of_all() -> None:
    module, last = encoder(), torch.tensor(LAST)
    x = torch.randn(24, 6, dtype=torch.float64)
    everything, alone = module(x, BUCKETS)[last], module(x, BUCKETS, last)
    torch.testing.assert_close(alone, everything)
    weights = torch.randn_like(alone)
    grads = [torch.autograd.grad((out * weights).sum(), list(module.parameters())) for out in (alone, everything)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-9)
    with torch.no_grad():  # bucket by bucket
        module.eval()
        torch.testing.assert_close(module(x, BUCKETS)[last], everything)
        torch.testing.assert_close(module(x, BUCKETS, last), everything)


@pytest.mark.parametrize("last", [None, LAST])
def test_dropout_is_right_on_average(last: list[int] | None) -> None:
    module = encoder(0.0)
    attention, x = module.layer[-1].multi_head_attention, torch.randn(24, 6, dtype=torch.float64)
    rows = None if last is None else torch.tensor(last)
    exact = attention.attend_last(x, BUCKETS, rows) if rows is not None else attention.attend_buckets(x, BUCKETS)
    attention.attn_dropout = 0.3
    if rows is None:
        cut = Rows.of(BUCKETS, x.device)
        draws = [attention.attend_rows(x, cut) for _ in range(800)]
    else:
        draws = [attention.attend_last(x, BUCKETS, rows) for _ in range(800)]
    torch.testing.assert_close(torch.stack(draws).mean(0), exact, atol=0.3, rtol=0.0)
