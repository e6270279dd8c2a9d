"""Linear maps in widths that processors like."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16  # rows of a result that begin at multiples of 64 bytes; float32 products of width 300 are a third slower


def missing(width: int) -> int:
    """Columns to add until a width is a multiple of `LANES`."""
    return -width % LANES


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear``, x [..., k] -> [..., n]; on a CPU, in full precision, computed in widths that are multiples of `LANES`.

    The result may be a view of a wider tensor.
    """
    n, k = weight.shape
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not (missing(n) or missing(k)):
        return F.linear(x, weight, bias)
    rows = missing(n)
    columns = missing(k) if torch.is_grad_enabled() else 0  # a width of the result in backward alone
    wide = F.linear(F.pad(x, (0, columns)), F.pad(weight, (0, columns, 0, rows)), F.pad(bias, (0, rows)))
    return wide[..., :n]
