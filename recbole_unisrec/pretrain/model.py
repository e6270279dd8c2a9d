"""UniSRec with the two contrastive tasks of pre-training (paper section 3.3)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_unisrec.data.features import FeatureTable
from recbole_unisrec.data.sequences import SIZES, PackedBatch
from recbole_unisrec.distributed import World, gather
from recbole_unisrec.model.unisrec import UniSRec
from recbole_unisrec.pretrain.batch import PretrainBatch
from recbole_unisrec.pretrain.contrast import contrast
from recbole_unisrec.pretrain.dataset import MixtureDataset
from recbole_unisrec.pretrain.fixed import FixedBatch
from recbole_unisrec.setting_table import PretrainSettings


class UniSRecPretrain(UniSRec):
    """`UniSRec` that holds no table of items: batches bring the features of their distinct items.

    Parameters
    ----------
    config
        As `UniSRec`; also ``lambda`` and ``contrastive_masking``.
    dataset
        A `MixtureDataset`.
    """

    def __init__(self, config: Any, dataset: MixtureDataset) -> None:
        empty = FeatureTable(torch.zeros(1, dataset.features.width), dataset.features.encoder)
        table_as_it_is = {"feature_scaling": "none", "feature_precision": "fp32"}  # the dataset has scaled it
        settings = _Override(
            config, **table_as_it_is, train_stage="pretrain", history_bias=None, loss=None, text_path=False
        )
        super().__init__(settings, SimpleNamespace(num=lambda field: 1, features=empty))
        s = PretrainSettings.from_config(config)
        self.weight_seq, self.masking = s.sequence_weight, s.contrastive_masking
        self.world = World()

    def use_table(self, table: Tensor) -> None:
        """Keep the features of all items on the device (`MixtureFeatures.on`)."""
        self.features = table

    def outputs_in_parts(self, parts: list[PackedBatch], table: Tensor) -> Tensor:
        """`packed_outputs` end to end; of several parts only the outputs stay, the rest is made again in backward."""
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self.packed_outputs(part, table) for part in parts])
        again = [checkpoint(self.packed_outputs, part, table, use_reentrant=False) for part in parts]
        return torch.cat(again)

    def task_losses(self, batch: PretrainBatch | FixedBatch) -> tuple[Tensor, Tensor]:
        """Sequence-item and sequence-sequence loss (Eq. 8, 9): this process's part of the mean over the global batch."""
        if isinstance(batch, FixedBatch):
            return self._fixed_losses(batch)
        x = self.features[batch.unique] if batch.features is None else batch.features
        x = F.pad(x, (0, 0, 0, -len(x) % SIZES))  # few sizes, see `data.sequences.filled_up`
        table = self.moe_adaptor(x)  # (U, d), and rows that nothing reads
        seq_output = self.outputs_in_parts(batch.plain, table)[batch.plain_order]  # (b, d)
        seq_output_aug = self.outputs_in_parts(batch.view, table)[batch.view_order]  # (b, d)
        items = self.scaled(table[batch.target])  # (b, d)
        kind = seq_output.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else seq_output.dtype
        first = sum(batch.sizes[: self.world.rank])

        def task(key: Tensor) -> Tensor:
            exact = key if key.dtype == torch.float64 else key.float()  # not every backend sends half precision
            keys = gather(exact, batch.sizes, self.world)
            loss = contrast(seq_output, keys, batch.ids, self.temperature, self.masking, batch.owner, first, dtype)
            return loss / len(batch.ids)

        return task(items), task(seq_output_aug)

    def _fixed_losses(self, batch: FixedBatch) -> tuple[Tensor, Tensor]:
        """`task_losses` of a batch of fixed shape, with the features of all items on the device."""
        rows, plain, view, target = batch.localised()
        table = self.moe_adaptor(self.features[rows])  # (U, d)
        query, other = self.packed_outputs(plain, table), self.packed_outputs(view, table)  # (P, d)
        kind = query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
        there = batch.ids > 0

        def task(key: Tensor) -> Tensor:
            exact = key if key.dtype == torch.float64 else key.float()
            loss = contrast(query, exact, batch.ids, self.temperature, self.masking, batch.owner, 0, dtype, there=there)
            return loss / there.sum()

        return task(self.scaled(table[target])), task(other)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """ℓ_SI + λ·ℓ_SS (Eq. 10), scalar."""
        seq_item, seq_seq = self.task_losses(interaction)
        return seq_item + self.weight_seq * seq_seq


class _Override:
    """A configuration with some settings replaced."""

    def __init__(self, config: Any, **settings: Any) -> None:
        self._config, self._settings = config, settings

    def __getitem__(self, name: str) -> Any:
        return self._settings[name] if name in self._settings else self._config[name]
