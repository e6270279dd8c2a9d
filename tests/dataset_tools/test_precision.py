"""bfloat16 is used where a processor multiplies it, and nothing breaks where it does not."""

from __future__ import annotations

import pytest
import torch

from dataset_tools import precision
from dataset_tools.common import UserError
from dataset_tools.features import TextEncoder
from dataset_tools.precision import has_fast_bf16, usable_precision

pytestmark = pytest.mark.hardware


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without fast bfloat16 products; oneDNN refuses to order bfloat16 weights for it."""

    def refuse(*_: object) -> None:
        raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw, avx512vl and avx512dq")

    precision._say_slow.cache_clear()
    monkeypatch.setattr(precision, "has_fast_bf16", lambda kind: False)
    reorder = torch.ops.mkldnn._reorder_linear_weight
    check = lambda weight, rows: refuse() if weight.dtype == torch.bfloat16 else reorder(weight, rows)  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", check)


def test_the_precision_that_was_asked_for_or_fp32_said_once(no_bf16: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert [usable_precision(p) for p in ("fp32", "bf16", "bf16")] == ["fp32"] * 3
    assert capsys.readouterr().err.count("has no fast bfloat16 products") == 1
    with pytest.raises(UserError, match="unknown precision 'fp8'; choose one of fp32, bf16"):
        usable_precision("fp8")


def test_encoding_without_bf16_products(no_bf16: None) -> None:
    texts = ["a red chair", "a blue table with four legs"]
    asked = TextEncoder.load("minilm", precision="bf16", device="cpu")
    assert asked.precision == "fp32"  # which stands beside the features
    assert (asked.encode(texts) == TextEncoder.load("minilm", device="cpu").encode(texts)).all()


@pytest.mark.parametrize(
    ("supported", "avx512_bf16", "machine", "fast"),
    [
        (True, True, "x86_64", True),
        (True, False, "x86_64", False),  # AVX-512 alone: emulated, four times slower than fp32
        (False, True, "x86_64", False),  # ONEDNN_MAX_CPU_ISA=AVX2
        (True, False, "aarch64", True),
        (False, False, "arm64", False),
    ],
)
def test_which_processors_multiply_bf16(
    supported: bool, avx512_bf16: bool, machine: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert has_fast_bf16("cpu") is fast
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_fast_bf16("cpu")
    assert not has_fast_bf16("mps")
