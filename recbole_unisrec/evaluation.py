"""What became of each test user: the rank of the item that came next, for every model, and metrics by group of users."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset_tools.common import atomic_path
from recbole_unisrec.errors import UserError
from recbole_unisrec.metrics import gains
from recbole_unisrec.model.losses import ranks_of_scores

# lower bounds of the groups: training interactions of the target item, and items in the user's history
POPULARITY = (0, 1, 5, 10, 20, 50)
LENGTH = (1, 3, 5, 10, 20)


@dataclass(frozen=True)
class TestUsers:
    """The test part of a leave-one-out split, one entry a user, in the order of the user tokens.

    Attributes
    ----------
    user, target
        Tokens of the users and of the items to find, str [U].
    popularity
        int64 [U]: interactions of the target in the training part.
    length
        int64 [U]: items in the history, not cut to the window.
    """

    __test__ = False  # for pytest: no test class

    user: np.ndarray
    target: np.ndarray
    popularity: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, dataset: Any) -> TestUsers:
        """From a built `data.dataset.SequenceDataset`, or any of its parts."""
        test = dataset.split.test
        target = test.items[test.target]
        users = dataset.field2id_token[dataset.uid_field][test.user.numpy()].astype(str)
        first = torch.zeros(dataset.user_num, dtype=torch.int64)
        first[dataset.split.owner] = dataset.split.owner_start
        order = np.argsort(users)
        return cls(
            users[order],
            dataset.field2id_token[dataset.iid_field][target.numpy()].astype(str)[order],
            dataset.item_popularity()[target].numpy()[order],
            (test.target - first[test.user]).numpy()[order],
        )

    def __len__(self) -> int:
        return len(self.user)


def user_ranks(trainer: Any, data: Any, show_progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the next item of each user of an evaluation loader, for any sequential model of RecBole.

    Parameters
    ----------
    trainer
        `PackedTrainer` or RecBole's ``Trainer``, with the weights to evaluate.
    data
        Validation or test loader of full ranking.

    Returns
    -------
    tuple
        str [U] user tokens, sorted, and int64 [U] ranks, 1 is best.

    Raises
    ------
    UserError
        If the loader does not have exactly one next item a user.
    """
    dataset = data._dataset
    if hasattr(dataset, "pairs") and hasattr(trainer, "ranks"):
        users, ranks = dataset.pairs.user, trainer.ranks(dataset.pairs, show_progress)
    else:
        users, ranks = _ranks_by_scores(trainer, data)
    tokens = dataset.field2id_token[dataset.uid_field][users.numpy()].astype(str)
    if len(np.unique(tokens)) != len(tokens):
        raise UserError(f"{dataset.dataset_name} has users with several test items; ranks need one next item a user")
    order = np.argsort(tokens)
    return tokens[order], ranks.numpy()[order]


@torch.no_grad()
def _ranks_by_scores(trainer: Any, data: Any) -> tuple[Tensor, Tensor]:
    trainer.model.eval()
    trainer.tot_item_num = data._dataset.item_num
    if not hasattr(trainer, "item_tensor") or trainer.item_tensor is None:
        trainer.item_tensor = data._dataset.get_item_feature().to(trainer.device)
    users, ranks = [], []
    for batch in data:
        interaction, scores, row, target = trainer._full_sort_batch_eval(batch)
        users.append(interaction[data._dataset.uid_field][row.cpu()].cpu())
        ranks.append(ranks_of_scores(scores[row], target.to(scores.device)).cpu())
    return torch.cat(users), torch.cat(ranks)


def group_metrics(
    ranks: np.ndarray, values: np.ndarray, bounds: tuple[int, ...], metrics: Iterable[str], topk: Iterable[int]
) -> dict[str, dict[str, float]]:
    """Metrics by group of users.

    Parameters
    ----------
    ranks, values
        int64 [U]: rank of the next item, and the number that decides the group.
    bounds
        Lower bounds of the groups, ascending.
    metrics, topk
        As in `metrics.rank_metrics`.

    Returns
    -------
    dict
        ``{"1-4": {"users": 177, "hit@10": ...}}``; groups without users are left out.
    """
    metrics, topk = list(metrics), list(topk)
    found: dict[str, dict[str, float]] = {}
    group = np.searchsorted(np.asarray(bounds), values, side="right") - 1
    for i, name in enumerate(group_names(bounds)):
        mine = torch.from_numpy(ranks[group == i])
        if len(mine):
            means = {f"{m}@{k}": float(gains(mine, m, k).mean()) for m in metrics for k in topk}
            found[name] = {"users": len(mine), **means}
    return found


def group_names(bounds: tuple[int, ...]) -> list[str]:
    """``["0", "1-4", "5+"]`` for the bounds (0, 1, 5)."""
    uppers = [b - 1 for b in bounds[1:]]
    names = [str(low) if low == high else f"{low}-{high}" for low, high in zip(bounds, uppers, strict=False)]
    return [*names, f"{bounds[-1]}+"]


def write_ranks(path: str | Path, users: np.ndarray, ranks: np.ndarray) -> None:
    """Write user tokens and ranks as ``.npz``, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, user=users, rank=ranks.astype(np.int32))


def read_ranks(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what `write_ranks` wrote; runs no code from the file.

    Raises
    ------
    UserError
        If the file is missing or torn.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return found["user"], found["rank"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the ranks in {path}: {error}; delete it and run again") from error
