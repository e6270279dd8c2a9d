"""Questions to a recommender: lists after histories, neighbours, explanations, and where a new item would stand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving import explain as reasons
from recbole_unisrec.serving.answers import Explanation, Placement, Recommendations
from recbole_unisrec.serving.checks import check_ids, check_k, clean, unknown_ids
from recbole_unisrec.serving.held import Held, candidates_of
from recbole_unisrec.serving.snapshot import Snapshot, rows_of

log = logging.getLogger("recbole_unisrec.serving")

BATCH = 1024  # histories ranked at a time

History = Sequence[str]


class Asking(Held):
    """All that leaves the catalogue as it is; each answer comes from one state of it."""

    _thresholds: tuple[int, Tensor] | None = None  # version of the catalogue, and `_tenth` of it

    @overload
    def recommend(self, histories: Sequence[str], k: int = ..., exclude_seen: bool = ..., candidates: Sequence[str] | None = ..., strict: bool = ...) -> Recommendations: ...  # type: ignore[overload-overlap]  # fmt: skip
    @overload
    def recommend(self, histories: Sequence[Sequence[str]], k: int = ..., exclude_seen: bool = ..., candidates: Sequence[str] | None = ..., strict: bool = ...) -> list[Recommendations]: ...  # fmt: skip
    def recommend(
        self,
        histories: Any,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        strict: bool = False,
    ) -> Any:
        """Recommend items after one or many histories.

        Parameters
        ----------
        histories
            Raw item ids from old to new, or a list of such lists. The newest `window` items are read. An empty
            history, or one of which no item is known, is answered by popularity in training.
        k
            Items wanted; fewer come back where the catalogue has no more.
        exclude_seen
            Leave out the items of the history (all of them, not only those that are read).
        candidates
            Recommend among these items only.
        strict
            Unknown items, in histories or candidates, are an error; otherwise they are skipped with a warning and
            named in the answer.

        Returns
        -------
        Recommendations, or a list of them
            One for each history.

        Raises
        ------
        UserError
            If k is below 1, an id is not text, or with `strict` an item is unknown.
        """
        if isinstance(histories, str):
            raise UserError(f"histories must be a list of item ids, or of such lists, not the text {histories[:40]!r}")
        histories = list(histories)
        single = not any(isinstance(h, list | tuple | np.ndarray) for h in histories)
        many = [histories] if single else histories
        for history in many:
            check_ids(history, "a history")
        check_k(k)
        snapshot = self.snapshot
        allowed = None if candidates is None else self._known(snapshot, candidates, "candidates", strict)
        answers: list[Recommendations] = []
        for start in range(0, len(many), BATCH):
            answers += self._recommend(snapshot, many[start : start + BATCH], k, exclude_seen, allowed, strict)
        unknown = {item for answer in answers for item in answer.unknown}
        if unknown:
            log.warning("skipped %d unknown items of histories, for example %r", len(unknown), min(unknown))
        return answers[0] if single else answers

    def _known(self, snapshot: Snapshot, items: Sequence[str], what: str, strict: bool) -> list[int]:
        check_ids(items, what)
        rows, unknown = rows_of(snapshot, items)
        if unknown and strict:
            raise UserError(unknown_ids(unknown, what))
        if unknown:
            log.warning("skipped %d unknown %s, for example %r", len(unknown), what, unknown[0])
        return sorted(set(rows))

    def _recommend(
        self,
        snapshot: Snapshot,
        histories: Sequence[History],
        k: int,
        exclude_seen: bool,
        allowed: list[int] | None,
        strict: bool,
    ) -> list[Recommendations]:
        found = [rows_of(snapshot, history) for history in histories]
        if strict:
            for _, unknown in found:
                if unknown:
                    raise UserError(unknown_ids(unknown, "a history"))
        rows, scores = self.rank(snapshot, [f[0] for f in found], k, exclude_seen, allowed)
        filled = (rows >= 0).sum(1).tolist()
        flat = rows[rows >= 0].numpy()
        ids, titles = snapshot.ids(flat), snapshot.titles(flat)
        answers, start = [], 0
        for n, own, (known, unknown) in zip(filled, scores.tolist(), found, strict=True):
            stop = start + n
            basis: Literal["history", "popularity"] = "history" if known else "popularity"
            answers.append(
                Recommendations(ids[start:stop], titles[start:stop], own[:n], basis, unknown, snapshot.version)
            )
            start = stop
        return answers

    def rank(
        self,
        snapshot: Snapshot,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude_seen: bool = True,
        allowed: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The work of `recommend` on row numbers, see `serving.ranking.Ranker.rank`."""
        return self.ranker.rank(snapshot, histories, k, exclude_seen, allowed)

    def encode(self, snapshot: Snapshot, histories: Sequence[Sequence[int]]) -> Tensor:
        """Encode non-empty histories of rows -> float32 [B, d], normalised where similarity is the cosine."""
        return self.ranker.encode(snapshot, histories)

    def similar_items(self, item: str, k: int = 10) -> Recommendations:
        """The items whose vectors are nearest to that of `item`, itself left out.

        Scores are cosines of adapted vectors (in the transductive form with ID embeddings), or inner products for
        models without cosine.

        Raises
        ------
        UserError
            If the item is unknown or k below 1.
        """
        check_k(k)
        snapshot = self.snapshot
        row = self._row(snapshot, item)
        vector = reasons.without_path(self.ranker, snapshot.candidates[row])
        return reasons.nearest(self.ranker, snapshot, vector, k, [row])

    def _row(self, snapshot: Snapshot, item: str) -> int:
        check_ids([item], "item")
        row = snapshot.row(item)
        if row is None:
            raise UserError(unknown_ids([item], "the request"))
        return row

    def explain(self, history: History, item: str) -> Explanation:
        """Which items of the history, and which experts of the adaptor, speak for recommending `item`.

        *History*: the weight of an item is s(history) − s(history without that item), where s is the score of `item`:
        leave-one-out, in units of the score. Positive speaks for `item`. With a history of one the score without it is
        taken as 0. Items beyond the `window` newest weigh 0, for the model does not read them.

        *Experts*: v = Σ_k g_k·(x − b_k)·W_k is a sum over experts (paper Eq. 3 to 5), and so is the score q·v/‖v‖. The
        weight of an expert is its summand g_k·q·((x − b_k)·W_k)/‖v‖; with `id_weight`, the summand of the ID embedding
        (transductive), and `text_weight`, what the text's own path and the popularity of the item add (``text_path``), they
        add up to the score. `gate` is g_k.

        Raises
        ------
        UserError
            If `item`, or all of the history, is unknown. Unknown items in the history are left out.
        """
        check_ids(history, "a history")
        snapshot = self.snapshot
        row = self._row(snapshot, item)
        return reasons.explain(self.ranker, snapshot, history, row, self.meta.form == "transductive")

    def preview(self, text: str, history: History = (), k: int = 10) -> Placement:
        """Where an item with this text would be recommended, without adding it.

        Raises
        ------
        UserError
            If the text is empty or cannot be encoded.
        """
        check_k(k)
        if not text.strip():
            raise UserError("the text of the item is empty; write what it is")
        snapshot = self.snapshot
        features = self._encode_texts([clean(text)], urgent=True)
        vector = candidates_of(self._vectors(features).numpy(), self.network)[0][0]
        tenth = self.queries, self._tenth(snapshot)
        return reasons.place(self.ranker, snapshot, vector, history, k, tenth)

    def _tenth(self, snapshot: Snapshot) -> Tensor:
        """Score of the tenth item for each of the kept histories, float32 [q]."""
        kept = self._thresholds
        if kept is None or kept[0] != snapshot.version:
            best, _ = self.ranker.topk(snapshot, self.queries, 10, [[]] * len(self.queries))
            kept = self._thresholds = (snapshot.version, best[:, -1])
        return kept[1]
