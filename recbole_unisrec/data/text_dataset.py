"""`SequenceDataset` with the text features of its items, in memory or mapped from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.data.feature_files import feature_paths, load_side_by_side
from recbole_unisrec.data.features import FeatureTable
from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.setting_table import MANY_ITEMS, LossSettings, RunSettings, TextPathSettings, TextSettings


class TextDataset(SequenceDataset):
    """`SequenceDataset` with the text features of its items in ``features``."""

    features: FeatureTable

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text, folder = TextSettings.from_config(config), Path(self.dataset_path)
        row_of = None if self.numbered else self.read_index()
        tokens = self.field2id_token[self.iid_field].tolist()
        index = row_of or self.read_index()
        n_rows = len(index) if index is not None else 1 + max((int(t) for t in tokens[1:] if t.isdecimal()), default=-1)
        self.features = load_side_by_side(
            feature_paths(folder, self.dataset_name, text.plm_suffix),
            tokens,
            row_of,
            n_rows,
            text.plm_size,
            text.text_cols,
            on_disk=stay_on_disk(config, len(tokens)),
        )

    @property
    def known_features(self) -> Tensor:
        """float32 [n, d_plm] features of the items that training may know of: all but those of ``cold_items``."""
        if isinstance(self.features.weight, MappedFeatures):
            return self.features.weight.sample(None if self.cold is None else ~self.cold)
        rows = self.features.weight[1:]
        return rows if self.cold is None else rows[~self.cold[1:]]


def stay_on_disk(config: Any, n_items: int) -> bool:
    """Whether text features stay in their file (``features_on``); ``auto`` leaves many there if a loss asks for few."""
    text = TextSettings.from_config(config)
    if text.features_on != "auto":
        return text.features_on == "disk"
    few = LossSettings.from_config(config).loss != "full" and not TextPathSettings.from_config(config).text_path
    on_cpu = RunSettings.from_config(config).device.type == "cpu"
    return n_items >= MANY_ITEMS and on_cpu and few and text.feature_precision == "fp32"
