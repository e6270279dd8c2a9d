"""What the text vectors of a history say by themselves: their weighted mean, to compare with those of the items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_unisrec.data.features import scale_features
from recbole_unisrec.model.encoder import Buckets, Rows
from recbole_unisrec.model.tables import take


def unit_features(weight: Tensor, how: str, reference: Tensor | None = None, widths: Sequence[int] = ()) -> Tensor:
    """Text features scaled and of length one, x̂ [n_items, d_plm]; row 0 is padding and stays zero.

    Parameters
    ----------
    weight, how, reference, widths
        As in `data.features.scale_features`.
    """
    return F.normalize(scale_features(weight, how, reference, widths), dim=1)


def history_mean(vectors: Tensor, buckets: Buckets, weight: Tensor) -> Tensor:
    """q = Σ_a w_a·x̂_(t−a) / √Σ_a w_a² over the items up to each position of packed sequences.

    Parameters
    ----------
    vectors
        [T, k] text vectors in the order of `buckets` (see `model.encoder`).
    weight
        [L] weights w by age, 0 is the newest item; at least as many as the longest bucket.

    Returns
    -------
    Tensor
        [T, k].
    """
    means, start = [], 0
    for n, length in buckets:
        mixing = _mixing(weight[:length])  # (L, L)
        means.append((mixing @ vectors[start : start + n * length].view(n, length, -1)).flatten(0, 1))
        start += n * length
    return torch.cat(means)


def history_mean_rows(vectors: Tensor, rows: Rows, position: Tensor, weight: Tensor) -> Tensor:
    """`history_mean` of packed sequences that are cut into `rows` for attention, in one product.

    Parameters
    ----------
    vectors, weight
        As in `history_mean`.
    rows
        See `model.encoder.Rows`; with keys of the row before.
    position
        int64 [T] places of the items in their sequences.

    Returns
    -------
    Tensor
        [T, k].
    """
    place = torch.arange(2 * rows.width, device=weight.device)
    age = (place[rows.width :].unsqueeze(1) - place).clamp(0, len(weight) - 1)  # (width, keys)
    mixing = torch.where(rows.mask.squeeze(1), take(weight, age), 0.0)  # (n, width, keys)
    mean = torch.bmm(mixing, rows.keys(rows.cut(vectors))).flatten(0, 1)[: len(vectors)]
    return mean / take(weight.square().cumsum(0).sqrt(), position).unsqueeze(1)


def _mixing(weight: Tensor) -> Tensor:
    """Lower triangular [L, L]: row t has the weights of the ages t, t − 1, ..., 0, of length one."""
    place = torch.arange(len(weight), device=weight.device)
    age = place.unsqueeze(1) - place
    mixing = torch.where(age >= 0, weight[age.clamp(min=0)], 0.0)
    return mixing / weight.square().cumsum(0).sqrt().unsqueeze(1)


def last_mean(vectors: Tensor, length: Tensor, weight: Tensor) -> Tensor:
    """`history_mean` at the last items of right-padded histories: [B, L, k], int64 [B] -> [B, k]."""
    age = length.unsqueeze(1) - 1 - torch.arange(vectors.shape[1], device=vectors.device)
    mixing = torch.where(age >= 0, weight[age.clamp(min=0)], 0.0)  # (B, L)
    mean = torch.bmm(mixing.unsqueeze(1), vectors).squeeze(1)
    return mean / weight.square().cumsum(0).sqrt()[length - 1].unsqueeze(1)
