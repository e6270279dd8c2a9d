"""Which arithmetic of matrix products a machine is good for."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

from dataset_tools.common import UserError

PRECISIONS = ("fp32", "bf16")


def usable_precision(precision: str, device: str | torch.device = "cpu") -> str:
    """The precision to compute in: the one asked for, or ``fp32`` where bfloat16 would be slow or fail.

    Says so on stderr, once a process.

    Parameters
    ----------
    precision
        ``fp32`` or ``bf16``.
    device
        Where the products are to be computed.

    Raises
    ------
    UserError
        If the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    kind = str(device).partition(":")[0]
    if precision == "fp32" or has_fast_bf16(kind):
        return precision
    _say_slow("processor" if kind == "cpu" else "device")
    return "fp32"


def has_fast_bf16(kind: str) -> bool:
    """Whether products in bfloat16 are faster than in float32 on a kind of device (``cpu``, ``cuda``, ``mps``)."""
    import torch

    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # AVX-512 without its bfloat16 instructions emulates them, four times slower than float32; oneDNN calls it supported
    may_multiply = getattr(torch.cpu, "_is_avx512_bf16_supported", None) if _is_x86() else None
    return (may_multiply is None or may_multiply()) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _is_x86() -> bool:
    import platform

    return platform.machine().lower() in ("x86_64", "amd64")


@functools.cache
def _say_slow(what: str) -> None:
    print(
        f"note: this {what} has no fast bfloat16 products; bf16 would bring nothing here, so fp32 is computed",
        file=sys.stderr,
        flush=True,
    )
