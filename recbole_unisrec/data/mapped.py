"""Text features that stay in their file: rows are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class MappedFeatures:
    """Rows of memory-mapped feature files by internal item id, to be indexed as a tensor [n_items, d_plm] is.

    Parameters
    ----------
    source
        float16 or float32 [n_rows, d_plm], memory-mapped.
    rows
        int64 [n_items] row of each item; that of item 0, the padding item, counts for nothing, as it is zero.
    mean, matrix
        float32 [d_plm] and [d_plm, d_plm]: rows x come as (x − mean)·matrix (see `features.scaling`); None leaves them.
    others
        Features of the same items that stand beside these in a row.
    """

    def __init__(
        self,
        source: np.ndarray,
        rows: np.ndarray,
        mean: Tensor | None = None,
        matrix: Tensor | None = None,
        others: Sequence[MappedFeatures] = (),
    ) -> None:
        self.source, self.rows, self.mean, self.matrix, self.others = source, rows, mean, matrix, tuple(others)

    @property
    def shape(self) -> tuple[int, int]:
        """n_items and d_plm."""
        return len(self.rows), self.source.shape[1] + sum(other.shape[1] for other in self.others)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, items: Tensor | slice) -> Tensor:
        """float32 features [..., d_plm] of int64 items [...], or of a slice of all, on the device of `items`."""
        if isinstance(items, slice):
            items = torch.arange(len(self))[items]
        wanted = items.flatten().cpu()
        rows = torch.cat([self._read(wanted.numpy()), *(other[wanted] for other in self.others)], dim=1)
        if self.mean is not None and self.matrix is not None:
            rows = (rows - self.mean) @ self.matrix
        rows[wanted == 0] = 0.0
        return rows.view(*items.shape, -1).to(items.device)

    def _read(self, items: np.ndarray) -> Tensor:
        """Rows of the file as float32 [n, d]."""
        order = np.argsort(self.rows[items], kind="stable")  # the file is read from front to back
        found = np.empty((len(items), self.source.shape[1]), dtype=np.float32)
        found[order] = self.source[self.rows[items[order]]]
        return torch.from_numpy(found)

    def beside(self, others: Sequence[MappedFeatures]) -> MappedFeatures:
        """These and others side by side."""
        return MappedFeatures(self.source, self.rows, others=others)

    def sample(self, allowed: Tensor | None, n: int = 200_000) -> Tensor:
        """Features of at most `n` items, always the same ones, of those that bool `allowed` [n_items] is True for."""
        items = torch.arange(1, len(self)) if allowed is None else allowed.nonzero().squeeze(1)
        items = items[items > 0]
        if len(items) > n:
            items = items[torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:n]]
        return self[items]

    def scaled(self, mean: Tensor, matrix: Tensor) -> MappedFeatures:
        """The same rows, scaled."""
        return MappedFeatures(self.source, self.rows, mean.float(), matrix.float(), self.others)
