"""Metrics of leave-one-out evaluation, from the rank of the one next item. Definitions are RecBole's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

# each maps float64 ranks [B] that are within the top k to gains [B]
RANK_METRICS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "hit": lambda rank, k: torch.ones_like(rank),
    "recall": lambda rank, k: torch.ones_like(rank),
    "precision": lambda rank, k: torch.full_like(rank, 1 / k),
    "mrr": lambda rank, k: 1 / rank,
    "map": lambda rank, k: 1 / rank,
    "ndcg": lambda rank, k: 1 / torch.log2(rank + 1),
}


def gains(ranks: Tensor, metric: str, k: int) -> Tensor:
    """Value of one metric for each user, float64 [B]; 0 where the rank is beyond k."""
    rank = ranks.double()
    return torch.where(rank <= k, RANK_METRICS[metric](rank, k), 0.0)


def rank_metrics(ranks: Tensor, metrics: Iterable[str], topk: Iterable[int]) -> OrderedDict[str, float]:
    """Mean of each metric at each k, named like RecBole's (``ndcg@10``).

    Parameters
    ----------
    ranks
        int64 [B], 1 is best; B > 0.
    metrics, topk
        Names from `RANK_METRICS` in lower case, and cut-offs.
    """
    topk = list(topk)
    return OrderedDict((f"{m}@{k}", float(gains(ranks, m, k).mean())) for m in metrics for k in topk)
