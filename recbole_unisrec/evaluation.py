"""What became of each item to find: its rank, for every model, and metrics by group of users."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
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
    """The test part of a split, one entry for each item to find: by user token, and in order of time of one user.

    Attributes
    ----------
    user, target
        Tokens of the users and of the items to find, str [P].
    popularity
        int64 [P]: interactions of the target in the training part.
    length
        int64 [P]: items in the history, not cut to the window.
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
        order = np.lexsort((test.target.numpy(), users))
        return cls(
            users[order],
            dataset.field2id_token[dataset.iid_field][target.numpy()].astype(str)[order],
            dataset.item_popularity()[target].numpy()[order],
            dataset.split.history_length(test).numpy()[order],
        )

    def __len__(self) -> int:
        return len(self.user)


def user_ranks(trainer: Any, data: Any, show_progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each item to find of an evaluation loader among all items, for any sequential model of RecBole.

    Parameters
    ----------
    trainer
        `PackedTrainer` or RecBole's ``Trainer``, with the weights to evaluate.
    data
        Validation or test loader; where it brings sampled candidates, ranks are among all items all the same.

    Returns
    -------
    tuple
        str [P] user tokens, sorted, those of one user in order of time, and int64 [P] ranks, 1 is best.
    """
    dataset = data._dataset
    if hasattr(dataset, "pairs") and hasattr(trainer, "ranks"):
        users, ranks = dataset.pairs.user, trainer.ranks(dataset.pairs, show_progress)
    else:
        users, ranks = _ranks_by_scores(trainer, data)
    tokens = dataset.field2id_token[dataset.uid_field][users.numpy()].astype(str)
    place = dataset.pairs.target.numpy() if hasattr(dataset, "pairs") else np.arange(len(tokens))
    order = np.lexsort((place, tokens))
    return tokens[order], ranks.numpy()[order]


@torch.no_grad()
def _ranks_by_scores(trainer: Any, data: Any) -> tuple[Tensor, Tensor]:
    trainer.model.eval()
    if not isinstance(data, FullSortEvalDataLoader):
        data = FullSortEvalDataLoader(trainer.config, data._dataset, None)
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
    """Metrics by group of items to find (of users, where each has one).

    Parameters
    ----------
    ranks, values
        int64 [P]: rank of the next item, and the number that decides the group.
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
