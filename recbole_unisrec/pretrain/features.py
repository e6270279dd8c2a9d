"""Text features of all domains of a mixture, in two views, read where they lie.

Item ids are 1 + the mixture's global index; 0 is padding. An id beyond the last item, ``n_items + id``, stands for the
same item with its word-drop feature.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.features import UselessRows, open_features, read_meta, scaled_rows, scaling
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.domains import DomainInfo

FEATURE_CHECK_ROWS = 8192


class MixtureFeatures:
    """Text features of all domains, read where they lie.

    Parameters
    ----------
    domains
        Of the mixture.
    suffix, suffix_aug
        Of the feature files: plain, and with words dropped (None if they are not wanted).
    width
        Expected d_plm; None takes what the files say.
    how
        ``feature_scaling`` of `data.features.scale_features`, by the statistics of the plain features of each domain;
        other than ``none`` copies the tables.

    Raises
    ------
    UserError
        If a file is missing or broken, or the files differ in width or encoder.
    """

    def __init__(
        self, domains: list[DomainInfo], suffix: str, suffix_aug: str | None, width: int | None = None,
        how: str = "none",
    ) -> None:  # fmt: skip
        self.n_items = 1 + sum(d.n_items for d in domains)  # padding included
        self.starts = np.array([1 + d.first_item for d in domains])
        self.tables: list[list[np.ndarray]] = []
        self.encoder = ""
        seen: tuple[str, int, str] | None = None
        maps: dict[str, tuple[Tensor, Tensor]] = {}
        for part in [suffix] + ([suffix_aug] if suffix_aug else []):
            tables = []
            for domain in domains:
                path = domain.folder / f"{domain.name}.{part}"
                again = _encode_command(domain, suffix, "--word_drop 0.15" if part == suffix_aug else "")
                if not path.is_file():
                    what, instead = (
                        ("word-drop", ", or set item_drop_coefficient=1") if part == suffix_aug else ("text", "")
                    )
                    raise UserError(f"no {what} features: {path} does not exist; make it with {again}{instead}")
                same = None if "width" in read_meta(path) or seen is None else seen[1]
                table, encoder = open_features(path, domain.n_items, width or same)
                found = (f"{domain.name}.{part}", table.shape[1], encoder)
                seen = seen or found
                if found[1] != seen[1]:
                    raise UserError(
                        f"feature files differ in width: {seen[0]} has {seen[1]} and {found[0]} has {found[1]}; encode "
                        "one of the domains again with the encoder of the other"
                    )
                if encoder and seen[2] and encoder != seen[2]:
                    raise UserError(
                        f"feature files differ in encoder: {seen[0]} is of {seen[2]} and {found[0]} of {encoder}; "
                        "encode one of the domains again with the encoder of the other"
                    )
                self.encoder = self.encoder or encoder
                _check_values(path, table, again)
                if how != "none":
                    rows = torch.from_numpy(table.astype(np.float32))
                    # both views of an item go through one map, or they would differ by more than the words dropped
                    if part == suffix:
                        maps[domain.name] = scaling(rows, how)
                    table = scaled_rows(rows, *maps[domain.name]).numpy()
                tables.append(table)
            self.tables.append(tables)
        self.width = self.tables[0][0].shape[1]

    def __getitem__(self, ids: Tensor) -> Tensor:
        """float32 [k, d_plm] rows of int64 ids [k], ascending; row of id 0 is zero."""
        rows = np.zeros((len(ids), self.width), dtype=np.float32)
        numbers = ids.numpy()
        for part, tables in enumerate(self.tables):
            for start, table in zip(self.starts + part * self.n_items, tables, strict=True):
                low, high = np.searchsorted(numbers, [start, start + len(table)])
                if high > low:
                    rows[low:high] = table[numbers[low:high] - start]
        return torch.from_numpy(rows)

    def on(self, device: torch.device) -> Tensor:
        """All rows [n_items, d_plm] (word-drop rows below them) on a device."""
        ids = torch.arange(self.n_items * len(self.tables))
        table = torch.empty(len(ids), self.width, device=device)
        for block in ids.split(1 << 16):
            table[block[0] : block[-1] + 1] = self[block].to(device)
        return table


def _encode_command(domain: DomainInfo, suffix: str, option: str) -> str:
    """How to make a feature file of a domain, with the encoder of its plain one."""
    meta = read_meta(domain.folder / f"{domain.name}.{suffix}")
    pooling = f" --pooling {meta['pooling']}" if meta.get("pooling", "CLS") != "CLS" else ""
    command = (
        f"python -m dataset_tools.features {domain.folder} --encoder {meta.get('encoder', 'minilm')}{pooling} {option}"
    )
    return f"`{command.rstrip()}`"


def _check_values(path: Path, table: np.ndarray, again: str) -> None:
    useless = UselessRows()
    for first in range(0, len(table), FEATURE_CHECK_ROWS):
        block = table[first : first + FEATURE_CHECK_ROWS]
        if not np.isfinite(block.sum(dtype=np.float64)):
            raise UserError(f"{path} holds NaN or infinity; remove it and make it again with {again}")
        useless.add(block)
    if what := useless.what():
        raise UserError(f"{path} {what}; remove it and make it again with {again}")
