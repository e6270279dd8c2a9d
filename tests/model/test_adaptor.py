import pytest
import torch

from recbole_unisrec.model import adaptor
from recbole_unisrec.model.adaptor import MoEAdaptor

pytestmark = pytest.mark.hardware


def random_adaptor(**options: object) -> MoEAdaptor:
    torch.manual_seed(0)
    module = MoEAdaptor(3, 8, 5, **options).double()  # type: ignore[arg-type]
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def by_hand(module: MoEAdaptor, x: torch.Tensor) -> torch.Tensor:
    gates = (x @ module.w_gate).softmax(-1)
    return sum(gates[..., k, None] * expert(x) for k, expert in enumerate(module.experts))  # type: ignore[return-value]


def test_equals_the_sum_over_experts() -> None:
    module, x = random_adaptor().eval(), torch.randn(4, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), by_hand(module, x))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = random_adaptor().train(), torch.randn(11, 8, dtype=torch.float64)
    module.noisy_gating = False
    whole = module(x)
    whole.sum().backward()
    expected = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    monkeypatch.setattr(adaptor, "ROWS_PER_BLOCK", 3)
    blocks = module(x)
    blocks.sum().backward()
    torch.testing.assert_close(blocks, whole)
    torch.testing.assert_close([p.grad for p in module.parameters() if p.grad is not None], expected)


def test_gate_is_noisy_in_training_only() -> None:
    module, x = random_adaptor(), torch.randn(4, 8, dtype=torch.float64)
    assert not torch.equal(module.train().gates(x), module.gates(x))
    assert torch.equal(module.eval().gates(x), module.gates(x))
    torch.testing.assert_close(module.gates(x).sum(-1), torch.ones(4, dtype=torch.float64))


def test_dropout_does_not_touch_the_gate() -> None:
    module, x = random_adaptor(dropout=0.5, noise=False).train(), torch.randn(4, 8, dtype=torch.float64)
    assert torch.equal(module.gates(x), module.gates(x))
    assert not torch.equal(module(x), module(x))


def test_without_whitening_the_shift_stays_zero() -> None:
    module = MoEAdaptor(2, 8, 5, whitening=False)
    module(torch.randn(3, 8)).sum().backward()
    assert all(expert.bias.grad is None and not expert.bias.any() for expert in module.experts)
