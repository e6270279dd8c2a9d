"""The packed training loader, made from a RecBole configuration."""

from __future__ import annotations

from typing import Any

from recbole_unisrec.data.sequences import PackedBatch, PackedLoader
from recbole_unisrec.errors import UserError


class PackedTrainLoader(PackedLoader):
    """`PackedLoader` with the attributes that RecBole's ``Trainer`` reads from a training loader."""

    def __init__(self, config: Any, dataset: Any, shuffle: bool) -> None:
        super().__init__(
            dataset.segments, config["train_batch_size"], config["MAX_ITEM_LIST_LENGTH"], config["seed"], shuffle,
            with_seen=bool(config["history_bias"]),
        )  # fmt: skip
        self.config, self.dataset, self._dataset = config, dataset, dataset


def train_loader(config: Any, dataset: Any, sampler: Any, shuffle: bool = True) -> PackedTrainLoader:
    """What RecBole's ``get_dataloader`` hands out for training; `sampler` (negatives) must be None."""
    if sampler is not None:
        raise UserError(f"{config['model']} trains on all items, not on negatives; set train_neg_sample_args: ~")
    if config["save_dataloaders"]:
        raise UserError(f"{config['model']} does not save dataloaders (they build in seconds); drop save_dataloaders")
    return PackedTrainLoader(config, dataset, shuffle)


__all__ = ["PackedBatch", "PackedTrainLoader", "train_loader"]
