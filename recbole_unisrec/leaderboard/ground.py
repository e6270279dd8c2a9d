"""What all rows of a leaderboard share: the dataset's splits, its test users, and the popularity ranker that needs no more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec import quick_start
from recbole_unisrec.beyond import Recommended, beyond_metrics
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import TestUsers, group_metrics
from recbole_unisrec.leaderboard.runs import GROUPS, METRICS
from recbole_unisrec.metrics import rank_metrics
from recbole_unisrec.setting_table import TABLE
from recbole_unisrec.settings import DATA_SETTINGS, build_config

SPLIT = {*DATA_SETTINGS, *(setting.name for setting in TABLE["Data"])}  # settings that the splits depend on


@dataclass(frozen=True)
class Ground:
    """The splits of a dataset under a board's settings.

    Attributes
    ----------
    users
        The test part.
    facts
        Counts that the report names.
    digest
        Of items, sequences and splits.
    popularity
        int64 [n_items]: how often each item is the item to find in training.
    split, tokens
        As in `SequenceDataset`; tokens of the users.
    """

    users: TestUsers
    facts: dict[str, int]
    digest: str
    popularity: Tensor
    split: Any
    tokens: Any


def read_ground(name: str, overrides: dict[str, Any]) -> Ground:
    """Read a dataset and split it.

    Raises
    ------
    UserError
        If it is missing, or the split has no validation or no test part.
    """
    shared = {k: v for k, v in overrides.items() if k in SPLIT}
    config = build_config("SASRecPacked", name, [], shared)
    quick_start.prepare(config, None, "CLS")
    dataset = SequenceDataset(config)
    dataset.build()
    split = dataset.split
    if not len(split.valid) or not len(split.test):
        raise UserError("a leaderboard chooses on validation and compares on test; take a split that has both")
    facts = {
        "users": dataset.user_num - 1,
        "items": dataset.item_num - 1,
        "training pairs": len(split.train),
        "test users": len(split.test.user.unique()),
    }
    if len(split.test) > facts["test users"]:
        facts["items to find"] = len(split.test)
    digest = hashlib.sha256("\n".join(dataset.field2id_token[dataset.iid_field]).encode())
    for part in split.parts:
        order = part.target.argsort()  # which pairs there are, not in which order
        for array in (part.items, part.user[order], part.start[order], part.target[order]):
            digest.update(array.numpy().tobytes())
    tokens = dataset.field2id_token[dataset.uid_field]
    return Ground(TestUsers.of(dataset), facts, digest.hexdigest(), dataset.item_popularity(), split, tokens)


@dataclass(frozen=True)
class Popular:
    """What showing everybody the most frequent items gives: metrics of validation and test, groups, and test ranks."""

    valid: dict[str, float]
    test: dict[str, float]
    groups: dict[str, dict[str, dict[str, float]]]
    tokens: np.ndarray
    ranks: np.ndarray


def popular(ground: Ground, topk: list[int], beyond: list[str], tail_ratio: Any) -> Popular:
    """Everybody is shown what is most frequent in training.

    Parameters
    ----------
    ground
        The splits.
    topk
        Cut-offs.
    beyond, tail_ratio
        Metrics beyond accuracy that are wanted, and what counts as the tail (see `beyond.beyond_metrics`).
    """
    n_items = len(ground.popularity)
    order = np.lexsort((np.arange(n_items), -ground.popularity.numpy()))
    order = order[order != 0]
    rank = ground.popularity.new_zeros(n_items)
    rank[order] = ground.popularity.new_tensor(range(1, len(order) + 1))
    found = {}
    for part in ("valid", "test"):
        pairs = getattr(ground.split, part)
        found[part] = (pairs.user, rank[pairs.items[pairs.target]])
    metrics = {part: dict(rank_metrics(ranks, METRICS, topk)) for part, (_, ranks) in found.items()}
    if beyond:
        recommended = Recommended(n_items, topk)
        scores = -rank.double().unsqueeze(0)
        scores[:, 0] = -torch.inf
        recommended.add(scores)
        train = ground.split.train
        taken = torch.bincount(train.items[train.target], minlength=n_items)
        same = beyond_metrics(recommended, beyond, taken, tail_ratio)  # one list for everybody
        metrics = {part: {**values, **same} for part, values in metrics.items()}
    users, ranks = found["test"]
    tokens = ground.tokens[users.numpy()].astype(str)
    order = np.lexsort((ground.split.test.target.numpy(), tokens))
    ordered = ranks.numpy()[order]
    groups = {
        kind: group_metrics(ordered, getattr(ground.users, kind), bounds, METRICS, topk)
        for kind, bounds in GROUPS.items()
    }
    return Popular(metrics["valid"], metrics["test"], groups, tokens[order], ordered)
