"""The items that can be recommended, as immutable snapshots: who holds one never sees half a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.index import ApproximateIndex

SCHEMA = {"item_id": pl.String, "title": pl.String, "text": pl.String, "popularity": pl.Int64}
TITLE_LENGTH = 120
MAX_CHUNKS = 64
FREE_FROM = 1024  # rows of dead items, at least, before they are freed
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


class Buffer:
    """A matrix that grows at its end; views handed out before stay as they are."""

    def __init__(self, rows: Tensor, n: int | None = None) -> None:
        self._rows, self.n = rows, len(rows) if n is None else n  # beyond n there is room

    @property
    def view(self) -> Tensor:
        """All rows."""
        return self._rows[: self.n]

    def append(self, new: Tensor) -> Tensor:
        """Add rows; returns a view of all."""
        if self.n + len(new) > len(self._rows):
            grown = torch.empty((max(1024, (self.n + len(new)) * 5 // 4), *self._rows.shape[1:]), dtype=new.dtype)
            grown[: self.n] = self._rows[: self.n]
            self._rows = grown
        self._rows[self.n : self.n + len(new)] = new
        self.n += len(new)
        return self.view


def _with_room(rows: Tensor, kept: Tensor, room: int) -> Tensor:
    """Copy of some rows with room for `room` more."""
    found = torch.empty((len(kept) + room, *rows.shape[1:]), dtype=rows.dtype)
    torch.index_select(rows, 0, kept, out=found[: len(kept)])
    return found


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


def known_rows(ids: pl.Series) -> dict[str, int]:
    """Row of each id.

    Raises
    ------
    UserError
        If an id occurs twice.
    """
    rows = {item: row for row, item in enumerate(ids.to_list())}
    if len(rows) != len(ids):
        twice = ids.filter(ids.is_duplicated())[0]
        raise UserError(f"item {twice!r} occurs more than once in the items of the model; save the model again")
    return rows


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


class Catalogue:
    """The one writer of snapshots. `snapshot` can be read from any thread; the changes need a lock around them."""

    def __init__(
        self,
        items: pl.DataFrame,
        candidates: Tensor,
        norms: Tensor,
        features: np.ndarray | None,
        index: ApproximateIndex | None = None,
        version: int = 0,
    ) -> None:
        n = len(items)
        self._fixed = n  # rows that lie in the folder, and keep their numbers
        self._candidates, self._norms = Buffer(candidates, n), Buffer(norms, n)
        candidates, norms = candidates[:n], norms[:n]
        self._tail: Buffer | None = None  # the first block of features lies on disk, what is added in memory
        blocks = (features,) if features is not None else ()
        none = torch.zeros(0, dtype=torch.int64)
        self.snapshot = Snapshot(version, items, candidates, norms, blocks, none, index, known_rows(items["item_id"]))

    def append(
        self,
        items: pl.DataFrame,
        candidates: Tensor,
        norms: Tensor,
        features: np.ndarray | None,
        replaced: Sequence[str] = (),
    ) -> Snapshot:
        """Add items, whose ids must be new, or among the `replaced`, which go in the same moment.

        Who is replaced leaves its popularity to the item of the same id. Rows of the dead are freed when they are many.
        """
        base = self._base(self.snapshot)
        if int((self.snapshot.dead >= base).sum()) > max(FREE_FROM, self.snapshot.n_items // 4):
            self._take(*self._compacted(self.snapshot, base))
        old = self.snapshot
        if replaced:
            counts = old.items["popularity"].gather(rows_of(old, replaced)[0])
            known = dict(zip(replaced, counts.to_list(), strict=True))
            items = items.with_columns(
                popularity=pl.Series([known.get(i, 0) for i in items["item_id"]], dtype=pl.Int64)
            )
            old = self._without(replaced)
        frame = pl.concat([old.items, items], rechunk=old.items.n_chunks() >= MAX_CHUNKS)
        blocks = old.features
        if features is not None and blocks:
            new = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
            if self._tail is None:
                self._tail = Buffer(new)
                blocks = (blocks[0], new.numpy())
            else:
                blocks = (blocks[0], self._tail.append(new).numpy())
        changed: dict[str, int | None] = dict(old._changed)
        changed.update((item, old.n + i) for i, item in enumerate(items["item_id"].to_list()))
        rows = old._rows
        if len(changed) > 10_000 and len(changed) > len(rows) // 4:
            rows = {item: row for item, row in {**rows, **changed}.items() if row is not None}
            changed = {}
        self.snapshot = Snapshot(
            old.version + 1, frame, self._candidates.append(candidates), self._norms.append(norms), blocks,
            old.dead, old.index, rows, changed,
        )  # fmt: skip
        return self.snapshot

    def _base(self, snapshot: Snapshot) -> int:
        """Rows that keep their numbers: those of the folder and of the index."""
        return max(self._fixed, 0 if snapshot.index is None else snapshot.index.n)

    def _compacted(self, old: Snapshot, base: int) -> tuple[Snapshot, Buffer, Buffer, Buffer | None]:
        """The same items without the rows of dead ones from `base` on, and the buffers of such a state."""
        kept = torch.from_numpy(np.concatenate([np.arange(base), base + np.flatnonzero(old.alive[base:])]))
        room = 1024 + len(kept) // 8
        candidates = Buffer(_with_room(old.candidates, kept, room), len(kept))
        norms = Buffer(_with_room(old.norms, kept, room), len(kept))
        tail, blocks = self._tail, old.features
        if len(blocks) > 1:
            own = kept[kept >= self._fixed] - self._fixed
            tail = Buffer(_with_room(torch.from_numpy(blocks[1]), own, room), len(own))
            blocks = (blocks[0], tail.view.numpy())
        dead = old.dead[old.dead < base]
        items = old.items[kept.numpy()].rechunk()
        alive = np.setdiff1d(np.arange(len(kept)), dead.numpy())
        rows = dict(zip(items["item_id"].gather(alive).to_list(), alive.tolist(), strict=True))
        state = Snapshot(old.version, items, candidates.view, norms.view, blocks, dead, old.index, rows)
        return state, candidates, norms, tail

    def _take(self, state: Snapshot, candidates: Buffer, norms: Buffer, tail: Buffer | None) -> None:
        self.snapshot, self._candidates, self._norms, self._tail = state, candidates, norms, tail

    def set_titles(self, titles: Mapping[str, str]) -> None:
        """Show items under other titles; ids that are not there do nothing."""
        old = self.snapshot
        shown = [titles.get(item) or title for item, title in old.items.select("item_id", "title").iter_rows()]
        items = old.items.with_columns(title=pl.Series(shown, dtype=pl.String))
        self.snapshot = replace(old, version=old.version + 1, items=items)

    def raise_version(self, version: int) -> None:
        """Let the version be at least so much."""
        if self.snapshot.version < version:
            self.snapshot = replace(self.snapshot, version=version)

    def index_with(self, build: Callable[[Tensor], ApproximateIndex]) -> ApproximateIndex:
        """Build an index over all rows, after the rows of dead items were freed, and make it the current one."""
        old = self.snapshot
        if int((old.dead >= self._fixed).sum()):
            state, candidates, norms, tail = self._compacted(old, self._fixed)
            self._take(state.with_index(build(state.candidates)), candidates, norms, tail)
        else:
            self.snapshot = old.with_index(build(old.candidates))
        assert self.snapshot.index is not None
        return self.snapshot.index

    def remove(self, ids: Sequence[str]) -> Snapshot:
        """Remove items, all of which must be there."""
        self.snapshot = self._without(ids)
        return self.snapshot

    def _without(self, ids: Sequence[str]) -> Snapshot:
        old = self.snapshot
        rows = [old.row(item) for item in ids]
        gone = np.array([row for row in rows if row is not None], dtype=np.int64)
        dead = torch.from_numpy(np.union1d(old.dead.numpy(), gone))
        changed = {**old._changed, **dict.fromkeys(ids)}
        return replace(old, version=old.version + 1, dead=dead, _changed=changed)
