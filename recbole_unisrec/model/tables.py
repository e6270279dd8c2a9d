"""The one place where tables of item embeddings are made, so that an engine for sharded tables can be put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def take(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, [n] or [n, d], by int64 `index` of any shape.

    On a GPU the gradient is added up row by row at once, in no fixed order; that of ``F.embedding`` takes ten times as long
    where rows are wanted often, as positions are.
    """
    if table.device.type == "cpu":
        return table[index] if table.ndim == 1 else F.embedding(index, table)
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


class ItemEmbedding(nn.Embedding):
    """``nn.Embedding`` of the items, with what `TableRecommender` asks of any table: rows by id, and all of them."""

    def whole(self) -> Tensor:
        """All rows, [n_items, d]."""
        return self.weight


Factory = Callable[[int, int, bool], Any]  # n_items, d, sparse gradients -> a module like `ItemEmbedding`


def _local(n_items: int, width: int, sparse: bool) -> ItemEmbedding:
    return ItemEmbedding(n_items, width, padding_idx=0, sparse=sparse)


_factory: Factory = _local


def item_embedding(n_items: int, width: int, sparse: bool = False) -> ItemEmbedding:
    """A table of item embeddings, row 0 for padding.

    Parameters
    ----------
    n_items, width
        Rows and width d.
    sparse
        Whether gradients are those of the rows that were asked for (see `optim.RowAdam`).
    """
    table: ItemEmbedding = _factory(n_items, width, sparse)
    return table


@contextmanager
def tables_by(factory: Factory) -> Iterator[None]:
    """Models made within get their tables from `factory` (``benchmarks/torchrec_tables.py`` has one for TorchRec)."""
    global _factory
    before, _factory = _factory, factory
    try:
        yield
    finally:
        _factory = before
