"""The one writer of the catalogue: each change makes a new `Snapshot`, so who holds an old one never sees half a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.index import ApproximateIndex
from recbole_unisrec.serving.snapshot import Snapshot, rows_of

MAX_CHUNKS = 64
FREE_FROM = 1024  # rows of dead items, at least, before they are freed


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
