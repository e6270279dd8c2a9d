"""Changes of a recommender's catalogue: items in, items out, and those that another recommender has seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.checks import check_ids, check_items, unknown_ids
from recbole_unisrec.serving.held import Held, candidates_of
from recbole_unisrec.serving.snapshot import item_frame, rows_of

TAIL = 50_000  # items beyond the approximate index, which are searched exactly


class FullError(UserError):
    """The catalogue has as many items as are allowed."""


class Changing(Held):
    """All that makes a new snapshot of the catalogue, one change after the other.

    Attributes
    ----------
    max_items
        Adding beyond so many items is refused; None for no limit.
    changed
        Items that were added, replaced or removed since the model was loaded, with the texts that they had then (None:
        were not there).
    """

    max_items: int | None
    changed: dict[str, str | None]

    def encode_items(self, items: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """Text features of new items, float32 [n, d_plm], as `add_items` takes them; nothing is added.

        Raises
        ------
        UserError
            If a text is empty, or cannot be encoded.
        """
        return self._encode_texts(check_items(list(items))[1])

    def add_items(
        self,
        items: Iterable[Mapping[str, Any]],
        features: np.ndarray | None = None,
        replace: bool = False,
    ) -> int:
        """Add items that the model was not trained on; they can be recommended and stand in histories at once.

        In the inductive form they are treated exactly as if they had been in the catalogue: their vectors come from
        their texts alone, by the same encoder and adaptor. In the transductive form an item of the catalogue also has
        an ID embedding, learned in training; a new item has a zero one, so that its scores are those of its text and
        compete with items whose ID embedding was fitted. New items then tend to rank lower than they deserve; where
        new items matter, train the inductive form.

        All are added, or none.

        Parameters
        ----------
        items
            Mappings with ``item_id``, ``text`` and optionally ``title``.
        features
            float32 [n, d_plm] of the texts, if they have been encoded elsewhere by the model's encoder.
        replace
            Let an existing id get the new text, instead of being refused.

        Returns
        -------
        int
            How many were added.

        Raises
        ------
        UserError
            If a text is empty, an id exists or occurs twice, the encoder is missing or another, or the model does not
            read text.
        """
        rows = list(items)
        ids, texts, titles = check_items(rows)
        if self.network.moe_adaptor is None:
            self._encode_texts([])
        if not replace:
            self.check_new(ids)
        if not rows:
            return 0
        if features is None:
            features = self._encode_texts(texts)
        features = np.asarray(features, dtype=np.float32)
        due = (len(rows), self.settings.plm_size)
        if features.shape != due or not np.isfinite(features).all():
            raise UserError(f"features have shape {list(features.shape)}, {list(due)} finite numbers are due")
        with torch.inference_mode():
            candidates, norms = candidates_of(self._vectors(features).numpy(), self.network)
        with self._lock:
            existing = [item for item in ids if self.snapshot.row(item) is not None]
            if existing and not replace:
                self.check_new(ids)  # added by another thread meanwhile
            after = self.snapshot.n_items + len(ids) - len(existing)
            if self.max_items is not None and after > self.max_items:
                raise FullError(
                    f"the catalogue would have {after:,} items, and {self.max_items:,} are allowed; remove items, or "
                    "allow more (--max_items)"
                )
            self._note(ids)
            self._catalogue.append(item_frame(ids, texts, titles), candidates, norms, features, existing)
            index = self.snapshot.index
            if index is not None and self.snapshot.n - index.n > max(TAIL, index.n // 4):
                self.build_index()
        return len(rows)

    def set_titles(self, titles: Mapping[str, str]) -> None:
        """Show items under other titles, by id; scores stay. Empty titles, and ids that are not there, do nothing."""
        with self._lock:
            self._catalogue.set_titles(titles)

    def raise_version(self, version: int) -> None:
        """Let the version of the catalogue be at least so much, so that it rises from one model to the next."""
        with self._lock:
            self._catalogue.raise_version(version)

    def check_new(self, ids: Sequence[str]) -> None:
        """Raise `UserError` if one of the items exists."""
        snapshot = self.snapshot
        existing = [item for item in ids if snapshot.row(item) is not None]
        if existing:
            raise UserError(
                f"{len(existing)} of the items exist already, for example {existing[0]!r}; leave them out, or replace "
                "them (--replace, replace=True)"
            )

    def remove_items(self, ids: Iterable[str]) -> int:
        """Remove items; they are neither recommended nor known in histories from then on.

        Raises
        ------
        UserError
            If one is unknown; then none is removed.
        """
        wanted = list(dict.fromkeys(ids))
        check_ids(wanted, "the items to remove")
        with self._lock:
            _, unknown = rows_of(self.snapshot, wanted)
            if unknown:
                raise UserError(unknown_ids(unknown, "the items to remove"))
            if wanted:
                self._note(wanted)
                self._catalogue.remove(wanted)
        return len(wanted)

    def _note(self, ids: Sequence[str]) -> None:
        """Remember which items are about to change, with the texts that they had."""
        snapshot = self.snapshot
        for item in ids:
            if item not in self.changed:
                row = snapshot.row(item)
                self.changed[item] = None if row is None else snapshot.items["text"][row]

    def adopt(self, other: Changing) -> list[str]:
        """Make the changes here too that another recommender has seen since it was loaded.

        For a folder that was written anew meanwhile: what was loaded from it takes over the changes of who was loaded
        before. Of an item that both changed, the state of `other` is taken.

        Returns
        -------
        list of str
            Items that had been changed on both sides, to different texts.

        Raises
        ------
        UserError
            If the changes cannot be made here, for example as this model reads no text.
        """
        with other._lock:
            theirs, changed, version = other.snapshot, dict(other.changed), other.snapshot.version
            kept = {item: theirs.row(item) for item in changed}
            there = [(item, row) for item, row in kept.items() if row is not None]
            features = theirs.features_of([row for _, row in there])
            rows = theirs.items[[row for _, row in there]].to_dicts() if there else []
        both = []
        with self._lock:
            mine = self.snapshot
            for item, row in kept.items():
                own = mine.row(item)
                text = None if own is None else mine.items["text"][own]
                new = None if row is None else theirs.items["text"][row]
                if text != changed[item] and text != new:
                    both.append(item)
            gone = [item for item, row in kept.items() if row is None and mine.row(item) is not None]
            same = other.texts.recorded == self.texts.recorded and other.settings.plm_size == self.settings.plm_size
            if self.texts.encoder is None and same:
                self.texts.encoder = other.texts.encoder
            if rows:
                self.add_items(rows, features.numpy() if same and features is not None else None, replace=True)
            if gone:
                self.remove_items(gone)
            self._catalogue.raise_version(version + 1)
        return both
