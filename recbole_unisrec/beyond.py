"""Metrics beyond accuracy: how many items are recommended at all, how evenly, how popular. Definitions are RecBole's.

All of them follow from how often each item was among the first k; lists and scores need not be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class Recommended:
    """How often each item stands among the first k, for each k, filled block by block.

    Parameters
    ----------
    n_items
        Number of items, with padding.
    topk
        Cut-offs.
    """

    def __init__(self, n_items: int, topk: Sequence[int]) -> None:
        self.topk, self.n_lists = list(topk), 0
        self.counts = torch.zeros(len(self.topk), n_items, dtype=torch.int64)

    def add(self, scores: Tensor) -> None:
        """Take in the scores [B, n_items] of a block, padding struck out."""
        best = scores.topk(min(max(self.topk), scores.shape[1] - 1), dim=1).indices  # (B, k)
        self.n_lists += len(best)
        self.counts = self.counts.to(best.device)  # and there they stay
        for row, k in zip(self.counts, self.topk, strict=True):
            first = best[:, :k].flatten()
            row.scatter_add_(0, first, torch.ones_like(first))


def _coverage(count: Tensor, popularity: Tensor, tail: Tensor) -> float:
    return float((count > 0).sum()) / len(count)


def _entropy(count: Tensor, popularity: Tensor, tail: Tensor) -> float:
    share = count[count > 0] / count.sum()
    return float(-(share * share.log()).sum()) / len(share)


def _gini(count: Tensor, popularity: Tensor, tail: Tensor) -> float:
    ordered, n = count.sort().values, len(count)
    place = torch.arange(1, n + 1, dtype=torch.float64)
    return float(((2 * place - n - 1) * ordered).sum() / (n * count.sum()))


def _popularity(count: Tensor, popularity: Tensor, tail: Tensor) -> float:
    return float((count * popularity).sum() / count.sum())


def _tail(count: Tensor, popularity: Tensor, tail: Tensor) -> float:
    return float(count[tail].sum() / count.sum())


# each maps float64 counts and popularities [n_items] and the tail, bool [n_items], to a value
BEYOND: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "itemcoverage": _coverage,
    "shannonentropy": _entropy,
    "giniindex": _gini,
    "averagepopularity": _popularity,
    "tailpercentage": _tail,
}


def tail_items(popularity: Tensor, ratio: float | None) -> Tensor:
    """bool [n_items]: the least popular items that occur in training.

    Parameters
    ----------
    popularity
        int64 [n_items], how often each item is the next one in training.
    ratio
        Up to 1 a share of these items (0.1 if None or 0), above 1 the largest popularity of a tail item.
    """
    ratio = ratio if ratio and ratio > 0 else 0.1
    known = popularity > 0
    if ratio > 1:
        return known & (popularity <= ratio)
    ids = known.nonzero().squeeze(1)
    ids = ids[popularity[ids].argsort(stable=True)]  # equally popular: by id
    tail = torch.zeros_like(known)
    tail[ids[: max(int(len(ids) * ratio), 1)]] = True
    return tail


def beyond_metrics(
    recommended: Recommended, metrics: Iterable[str], popularity: Tensor, tail_ratio: float | None
) -> dict[str, float]:
    """Each metric at each k, named like RecBole's (``itemcoverage@10``).

    Parameters
    ----------
    recommended
        Filled with one list or more.
    metrics
        Names from `BEYOND`.
    popularity, tail_ratio
        As in `tail_items`.
    """
    tail = tail_items(popularity, tail_ratio)
    counts = recommended.counts.cpu().double()
    return {
        f"{name}@{k}": BEYOND[name](count, popularity.double(), tail)
        for name in metrics
        for k, count in zip(recommended.topk, counts, strict=True)
    }
