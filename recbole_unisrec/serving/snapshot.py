"""One state of the catalogue, which never changes: its items, their vectors, and the questions that can be put to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recbole_unisrec.serving.index import ApproximateIndex

SCHEMA = {"item_id": pl.String, "title": pl.String, "text": pl.String, "popularity": pl.Int64}
TITLE_LENGTH = 120
FEW_ROWS = 128


def short_title(text: str) -> str:
    """The first words of a text, for people to read."""
    text = " ".join(text.split())
    if len(text) <= TITLE_LENGTH:
        return text.removesuffix(".")  # joined fields end with one
    cut = text[: TITLE_LENGTH - 1]
    blank = cut.rfind(" ")  # some languages write none
    return (cut[:blank].rstrip(",;:") if blank > TITLE_LENGTH // 2 else cut) + "…"


def item_frame(
    ids: Sequence[str],
    texts: Sequence[str],
    titles: Sequence[str | None] | None = None,
    popularity: Sequence[int] | np.ndarray | None = None,
) -> pl.DataFrame:
    """The table of items; a missing title is taken from the text."""
    given = titles if titles is not None else [None] * len(ids)
    shown = [title or short_title(text) for title, text in zip(given, texts, strict=True)]
    counts = np.zeros(len(ids), dtype=np.int64) if popularity is None else np.asarray(popularity, dtype=np.int64)
    return pl.DataFrame([list(ids), shown, list(texts), counts], schema=SCHEMA)


def _gathered(column: pl.Series, rows: Sequence[int] | np.ndarray) -> list[str]:
    if len(rows) <= FEW_ROWS:  # without the threads of polars, for which an answer would have to wait
        return [column[int(row)] for row in rows]
    return column.gather(np.asarray(rows, dtype=np.int64)).to_list()


@dataclass(frozen=True)
class Snapshot:
    """One state of the catalogue; a row number means something in its own snapshot only.

    Attributes
    ----------
    version
        Rises by one with each change.
    items
        One row an item: item_id, title, text, popularity (interactions in training).
    candidates
        float32 [n, d] item vectors, normalised where similarity is the cosine.
    norms
        float32 [n]: what `candidates` was divided by.
    features
        one or two blocks of float32 or float16 text features, [n, d_plm] together; empty for a model without text.
    dead
        int64, sorted: rows of removed items.
    index
        Approximate index over the first ``index.n`` rows, or None.
    """

    version: int
    items: pl.DataFrame
    candidates: Tensor
    norms: Tensor
    features: tuple[np.ndarray, ...]
    dead: Tensor
    index: ApproximateIndex | None
    _rows: Mapping[str, int] = field(repr=False)
    _changed: Mapping[str, int | None] = field(repr=False, default_factory=dict)

    @property
    def n(self) -> int:
        """Number of rows, those of removed items included."""
        return len(self.candidates)

    @property
    def n_items(self) -> int:
        """Number of items that can be recommended."""
        return self.n - len(self.dead)

    def row(self, item: str) -> int | None:
        """Row of an item, None if there is no such item."""
        return self._changed[item] if item in self._changed else self._rows.get(item)

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Raw ids of rows."""
        return _gathered(self.items["item_id"], rows)

    def titles(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Titles of rows."""
        return _gathered(self.items["title"], rows)

    def vectors(self, rows: Tensor) -> Tensor:
        """Item vectors as the encoder reads them, float32 [n, d]."""
        return self.candidates[rows].mul_(self.norms[rows].unsqueeze(1))

    def features_of(self, rows: Iterable[int]) -> Tensor | None:
        """Text features float32 [n, d_plm] of rows, None if they are not kept."""
        if not self.features:
            return None
        ends = np.cumsum([len(block) for block in self.features])
        found = []
        for row in rows:
            block = int(np.searchsorted(ends, row, side="right"))
            found.append(np.asarray(self.features[block][row - ends[block]], dtype=np.float32))
        return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, self.features[0].shape[1])

    @cached_property
    def alive(self) -> np.ndarray:
        """bool [n]."""
        alive = np.ones(self.n, dtype=bool)
        alive[self.dead.numpy()] = False
        return alive

    @cached_property
    def alive_bits(self) -> np.ndarray | None:
        """`alive` of the rows in the index, as `ApproximateIndex.search` takes it; None if all are."""
        if self.index is None or not len(self.dead) or int(self.dead[0]) >= self.index.n:
            return None
        return np.packbits(self.alive[: self.index.n], bitorder="little")

    @cached_property
    def by_popularity(self) -> np.ndarray:
        """int64 rows of all items, the most popular first, equal ones in the order of the catalogue."""
        order = np.argsort(-self.items["popularity"].to_numpy(), kind="stable")
        return order[self.alive[order]]

    @cached_property
    def words(self) -> pl.Series:
        """Titles and the beginnings of the texts in lower case, to search in."""
        begins = pl.col("text").str.head(TITLE_LENGTH)
        own = pl.when(begins.str.starts_with(pl.col("title"))).then(begins).otherwise(pl.col("title") + "\n" + begins)
        return self.items.select(own.str.to_lowercase()).to_series()

    @cached_property
    def total_popularity(self) -> int:
        """Interactions in training with the items that are there."""
        return max(1, int(self.items["popularity"].to_numpy()[self.alive].sum()))

    def with_index(self, index: ApproximateIndex | None) -> Snapshot:
        """The same with another index."""
        return replace(self, index=index, version=self.version + 1)


def rows_of(snapshot: Snapshot, items: Sequence[str]) -> tuple[list[int], list[str]]:
    """Rows of the known items, and the unknown ones, both in the order given."""
    rows, unknown = [], []
    for item in items:
        row = snapshot.row(item)
        if row is None:
            unknown.append(item)
        else:
            rows.append(row)
    return rows, unknown


def search_items(snapshot: Snapshot, words: str, limit: int) -> list[int]:
    """Rows of items that hold all words in any case, in the title or in the beginning of the text (brand, category).

    The most popular come first, after the one with that id.
    """
    found = [row for row in (snapshot.row(words),) if row is not None]
    parts = words.lower().split()
    if parts:
        lower = snapshot.words
        hit = pl.Series([True]).new_from_index(0, len(lower))
        for part in parts[:20]:
            hit = hit & lower.str.contains(part, literal=True)
        matches = hit.to_numpy()
        order = snapshot.by_popularity
        rows = order[matches[order]][:limit].tolist()
    else:
        rows = snapshot.by_popularity[:limit].tolist()
    return [*found, *(row for row in rows if row not in found)][:limit]
