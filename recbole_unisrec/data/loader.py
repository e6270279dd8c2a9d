"""The packed training loader, made from a RecBole configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_unisrec import distributed
from recbole_unisrec.data.negatives import NegativeSampler, localise, target_counts
from recbole_unisrec.data.sequences import PackedBatch, PackedLoader, filled_up, pack
from recbole_unisrec.errors import UserError
from recbole_unisrec.setting_table import DataSettings, HistorySettings, LossSettings, RunSettings, TrainingSettings


class PackedTrainLoader(PackedLoader):
    """`PackedLoader` with the attributes that RecBole's ``Trainer`` reads, with negatives and with shares.

    Of several processes each gets its part of the segments of a batch, and so of the users; the batches together are
    those of one process, and so are the negatives.
    """

    def __init__(self, config: Any, dataset: Any, shuffle: bool) -> None:
        training, loss = TrainingSettings.from_config(config), LossSettings.from_config(config)
        super().__init__(
            dataset.segments, training.train_batch_size, DataSettings.from_config(config).window, training.seed, shuffle,
            with_seen=HistorySettings.from_config(config).history_bias,
        )  # fmt: skip
        self.config, self.dataset, self._dataset = config, dataset, dataset
        self.world = distributed.current()
        self.sampler: NegativeSampler | None = None
        if loss.loss != "full":
            cold = getattr(dataset, "cold", None)
            self.sampler = NegativeSampler(loss, target_counts(self.segments, dataset.item_num), cold)

    def drawing(self, epoch: int, number: int) -> torch.Generator:
        """What the negatives of the `number`-th batch of an epoch are drawn by."""
        seed = (self.seed * 1_000_003 + epoch) * 1_000_003 + number
        return torch.Generator().manual_seed(seed % 2**63)

    def batch(self, index: Tensor, epoch: int, number: int) -> PackedBatch:
        """This process's part of the `number`-th batch of an epoch, with its negatives."""
        mine = index[self.world.rank :: self.world.size]
        if not len(mine):  # fewer segments than processes: one counts for nothing, as all must take part
            mine = index[:1]
            share = 0.0
        else:
            share = float(self.segments.n_pairs[mine].sum() / self.segments.n_pairs[index].sum())
        batch = filled_up(pack(self.segments, mine, self.lengths))
        batch.share = share
        if self.sampler is not None:
            whole = batch if self.world.size == 1 else pack(self.segments, index, self.lengths)
            batch = localise(batch, self.sampler.draw(whole.target, self.drawing(epoch, number)))
        if self.with_seen:
            batch.seen = batch.histories()
        return batch


def train_loader(config: Any, dataset: Any, sampler: Any, shuffle: bool = True) -> PackedTrainLoader:
    """What RecBole's ``get_dataloader`` hands out for training; `sampler` (negatives) must be None."""
    run = RunSettings.from_config(config)
    if sampler is not None:
        raise UserError(
            f"{run.model} does not train on RecBole's negatives; set train_neg_sample_args: ~ (and loss: sampled "
            "for negatives of its own)"
        )
    if run.save_dataloaders:
        raise UserError(f"{run.model} does not save dataloaders (they build in seconds); drop save_dataloaders")
    return PackedTrainLoader(config, dataset, shuffle)


__all__ = ["PackedBatch", "PackedTrainLoader", "train_loader"]
