"""The pre-training set: sequences and features of several domains, and the users that are held out for validation."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.domains import read_description
from recbole_unisrec.pretrain.features import MixtureFeatures
from recbole_unisrec.pretrain.views import Rows, cut_rows, hashed_uniform, next_items
from recbole_unisrec.setting_table import DataSettings, PretrainSettings, RunSettings, TextSettings

HELD_OUT_SHARE = 0.05  # of a domain's users at most


class MixtureDataset:
    """What RecBole's ``create_dataset`` hands out for pre-training.

    Parameters
    ----------
    config
        Reads ``data_path``, ``dataset``, ``MAX_ITEM_LIST_LENGTH``, ``plm_suffix``, ``plm_suffix_aug``, ``plm_size``,
        ``item_drop_coefficient``, ``feature_scaling`` and ``valid_users``.

    Attributes
    ----------
    items
        int32 [n_interactions], memory-mapped global item indices.
    offsets
        int64 [n_users + 1].
    train_users, valid_users
        int64 [...], users that train and, in each domain, users that are held out as a whole.

    Raises
    ------
    UserError
        If a file is missing or broken, an item belongs to no domain, or features do not fit.
    """

    def __init__(self, config: Any) -> None:
        data, text, s = (
            DataSettings.from_config(config),
            TextSettings.from_config(config),
            PretrainSettings.from_config(config),
        )
        self.config, self.dataset_name, self.user_field = config, data.dataset, data.user_field
        self.window = data.window
        folder, name = Path(data.data_path), data.dataset
        if not folder.is_dir():
            raise UserError(f"no mixture {name!r}: no folder {folder}; see `python -m dataset_tools.mixture --help`")
        counts, self.domains = read_description(folder, name)
        self.items = self._load(folder / f"{name}.items.npy", np.int32)
        self.offsets = np.asarray(self._load(folder / f"{name}.offsets.npy", np.int64))
        self.user_domain = np.asarray(self._load(folder / f"{name}.user_domain.npy", np.int16))
        self._check(folder, counts)
        if len(text.plm_suffix) != 1:
            raise UserError(
                f"pre-training reads one feature file of each domain, but plm_suffix is {', '.join(text.plm_suffix)}"
            )
        wants_words = s.item_drop_coefficient < 1
        self.features = MixtureFeatures(
            self.domains, text.plm_suffix[0], s.plm_suffix_aug if wants_words else None,
            text.plm_size[0] if text.plm_size else None, text.feature_scaling,
        )  # fmt: skip
        self.user_num, self.item_num = counts["n_users"] + 1, counts["n_items"] + 1
        self.train_users, self.valid_users = self._hold_out(s.valid_users)

    def _load(self, path: Path, dtype: type) -> np.ndarray:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; make the mixture again with --overwrite") from error
        if found.dtype != dtype or found.ndim != 1:
            raise UserError(f"{path} holds {found.dtype} {list(found.shape)}, not {np.dtype(dtype)} [n]; make it again")
        return found

    def _check(self, folder: Path, counts: dict[str, int]) -> None:
        again = "make the mixture again with --overwrite"
        o, n_users = self.offsets, counts["n_users"]
        if len(o) != n_users + 1 or o[0] != 0 or o[-1] != len(self.items) or (np.diff(o) < 0).any():
            raise UserError(f"the offsets in {folder} do not fit the items (a torn file?); {again}")
        if len(self.user_domain) != n_users or (
            n_users and not 0 <= self.user_domain.min() <= self.user_domain.max() < len(self.domains)
        ):
            raise UserError(f"{folder} has users of an unknown domain; {again}")
        low = np.array([d.first_item for d in self.domains])
        high = low + [d.n_items for d in self.domains]
        for first in range(0, n_users, 1 << 18):  # block by block, as the array may be larger than the memory
            last = min(n_users, first + (1 << 18))
            domain = np.repeat(self.user_domain[first:last], np.diff(o[first : last + 1]))
            part = self.items[o[first] : o[last]]
            wrong = np.flatnonzero((part < low[domain]) | (part >= high[domain]))
            if len(wrong):
                raise UserError(
                    f"{folder} holds the item {part[wrong[0]]}, which is not of the domain of its user "
                    f"({self.domains[domain[wrong[0]]].name}) or of no domain at all; {again}"
                )

    def _hold_out(self, per_domain: int) -> tuple[np.ndarray, np.ndarray]:
        """Users of two items or more are held out by a hash of their number, the same ones in every run."""
        length = np.diff(self.offsets)
        usable = length >= 2
        drawn = hashed_uniform(np.arange(len(length), dtype=np.uint64), 0)
        held = np.zeros(len(length), dtype=bool)
        for number in range(len(self.domains)):
            users = np.flatnonzero(usable & (self.user_domain == number))
            n = min(per_domain, int(HELD_OUT_SHARE * len(users)))
            held[users[np.argsort(drawn[users], kind="stable")[:n]]] = True
        train = np.flatnonzero(usable & ~held)
        if not len(train):
            raise UserError(f"{self.dataset_name} has no user with two items or more; use larger domains")
        return train, np.flatnonzero(held)

    def num(self, field: str) -> int:
        """Number of users or items, padding included, as RecBole's ``Dataset.num``."""
        return self.user_num if field == self.user_field else self.item_num

    def build(self) -> list[MixtureDataset]:
        """The same set three times: loaders know which users are theirs."""
        return [self, self, self]

    @cached_property
    def pair_offsets(self) -> np.ndarray:
        """int64 [n_train_users + 1]: (history, next item) pairs of the training users before each."""
        counts = self.offsets[self.train_users + 1] - self.offsets[self.train_users] - 1
        return np.r_[0, np.cumsum(counts)]

    def __len__(self) -> int:
        return int(self.pair_offsets[-1])

    def held_out(self, domain: int) -> tuple[Rows, Tensor]:
        """Histories of the held-out users of a domain, and int64 [n] their last items, to predict."""
        users = self.valid_users[self.user_domain[self.valid_users] == domain]
        target = self.offsets[users + 1] - 1
        start = np.maximum(self.offsets[users], target - self.window)
        bounds = (start, target, target - start)
        return cut_rows(self.items, *bounds), next_items(self.items, *bounds)


def on_device(config: Any) -> bool:
    """Whether the feature table goes to the device as a whole (``features_on``)."""
    where = TextSettings.from_config(config).features_on
    return where == "device" or (where == "auto" and RunSettings.from_config(config).device.type == "cuda")
