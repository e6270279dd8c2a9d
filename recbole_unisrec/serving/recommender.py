"""Recommendations from text histories: the Python API."""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving import index as search
from recbole_unisrec.serving.catalogue import Catalogue, Snapshot, item_frame
from recbole_unisrec.serving.folder import CONFIG, Parts, check_target, read_folder, write_folder

if TYPE_CHECKING:
    from dataset_tools.features import TextEncoder

log = logging.getLogger("recbole_unisrec.serving")

PROBES = 8  # texts of the catalogue whose encoding must come out as it was before new texts are encoded
SAME = 0.999  # cosine from which two encodings of a text count as the same
LONG = 256  # seen items from which a history is searched exactly: too many to fetch beside the answer
TAIL = 50_000  # items beyond the approximate index, which are searched exactly
BATCH = 1024  # histories ranked at a time

History = Sequence[str]


@dataclass(frozen=True)
class Recommendations:
    """An answer, best first.

    Attributes
    ----------
    ids, titles, scores
        Of the items; fewer than k if the catalogue, less what was excluded, is smaller. The score is the cosine of
        history and item (for models without cosine their inner product); with ``basis == "popularity"`` the share of
        the training interactions.
    basis
        ``history``, or ``popularity`` where no item of the history is known.
    unknown
        Items of the history that the catalogue lacks; they were skipped.
    version
        Of the catalogue; rises with each change.
    """

    ids: list[str]
    titles: list[str]
    scores: list[float]
    basis: Literal["history", "popularity"] = "history"
    unknown: list[str] = field(default_factory=list)
    version: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Explanation:
    """Why an item is recommended; see `Recommender.explain` for the measures.

    Attributes
    ----------
    score
        Of the item for the whole history.
    history
        (item, title, weight), in the order of the history.
    experts
        (gate, weight) of each expert; empty for a model that keeps no text features.
    id_weight
        What the ID embedding of the item adds to the score; 0 in the inductive form.
    """

    item: str
    title: str
    score: float
    history: list[tuple[str, str, float]]
    experts: list[tuple[float, float]]
    id_weight: float


@dataclass(frozen=True)
class Placement:
    """Where an item that does not exist yet would be recommended; see `Recommender.preview`.

    Attributes
    ----------
    score, rank
        For the given history, rank 1 is best; None without a known history.
    n_items
        Items of the catalogue, without the new one.
    similar
        The nearest items.
    reach
        Share of `n_histories` real histories in whose top 10 it would be; None if the folder keeps none.
    """

    score: float | None
    rank: int | None
    n_items: int
    similar: Recommendations
    reach: float | None
    n_histories: int


def load(
    path: str | Path, data_path: str | Path | None = None, index: str = "auto", precision: str = "fp32"
) -> Recommender:
    """Load a model to recommend with. No code from the files is run.

    Parameters
    ----------
    path
        A folder that `Recommender.save` made, a training checkpoint ``saved/UniSRec-....pth``, or a folder of
        checkpoints, of which the newest is taken.
    data_path
        For a checkpoint whose dataset was moved: the folder that holds the dataset's folder.
    index
        ``exact``; ``approximate``, which needs faiss and is built if the folder has none; or ``auto``: what the folder
        has, and from 50,000 items on an approximate index if faiss is installed.
    precision
        Of the encoder's matrix products: ``fp32``, or ``bf16``, which makes large batches faster on processors that
        multiply bfloat16 (AVX512-BF16, AMX) and moves scores by about 0.0001. The search is float32 either way.

    Raises
    ------
    UserError
        If files are missing, damaged or of another kind.
    """
    path = Path(path)
    if path.is_dir() and not (path / CONFIG).exists():
        checkpoints = sorted(path.glob("*.pth"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        if checkpoints:
            path = checkpoints[-1]
            log.info("taking the newest checkpoint, %s", path)
    if path.is_dir():
        parts = read_folder(path, index)
    elif path.is_file():
        from recbole_unisrec.serving.checkpoint import read_checkpoint

        parts = read_checkpoint(path, data_path)
    else:
        raise UserError(f"{path} does not exist; give a saved model's folder or a checkpoint saved/....pth")
    return Recommender(parts, index, precision)


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


class Recommender:
    """Recommends, and lets the catalogue change meanwhile; make one with `load`.

    All methods may be called from several threads. Each answer comes from one state of the catalogue.

    Attributes
    ----------
    meta
        What model it is, see `serving.folder.Meta`.
    window
        Items of a history that the model reads, the newest.
    """

    def __init__(self, parts: Parts, index: str = "auto", precision: str = "fp32") -> None:
        if index not in ("auto", "exact", "approximate"):
            raise UserError(f"unknown index {index!r}; use auto, exact or approximate")
        self.meta, self.settings, self.network = parts.meta, parts.settings, parts.network
        self.network.use_precision(precision)
        self.window, self.queries = parts.settings.window, parts.queries
        self._encoder: TextEncoder | None = None
        self._lock = threading.RLock()  # of changes; answers need none
        # room at the end, so that the first new items do not copy the table
        candidates, norms = _candidates(parts.table, parts.settings.cosine, spare=1024 + len(parts.table) // 8)
        kept = parts.index if index != "exact" else None
        self._catalogue = Catalogue(parts.items, candidates, norms, parts.features, kept)
        self._thresholds: tuple[int, Tensor] | None = None
        if kept is None and self._wants_index(index):
            self.build_index()

    def _wants_index(self, index: str) -> bool:
        if index != "auto":
            return index == "approximate"
        if self.snapshot.n < search.APPROXIMATE_FROM or not len(self.queries):
            return False
        try:
            search.import_faiss()
        except UserError as error:
            log.warning("%d items are searched one by one: %s", self.snapshot.n, error)
            return False
        return True

    @property
    def snapshot(self) -> Snapshot:
        """The current state of the catalogue."""
        return self._catalogue.snapshot

    def __len__(self) -> int:
        return self.snapshot.n_items

    # --- answers

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
            _check_ids(history, "a history")
        _check_k(k)
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
        _check_ids(items, what)
        rows, unknown = rows_of(snapshot, items)
        if unknown and strict:
            raise UserError(_unknown(unknown, what))
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
                    raise UserError(_unknown(unknown, "a history"))
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
        """The work of `recommend` on row numbers.

        Returns
        -------
        tuple
            int64 [B, k'] rows, best first, -1 where there are no more, and float32 [B, k'] scores; k' is k or the size
            of the catalogue.
        """
        k = min(k, max(1, snapshot.n))
        rows = torch.full((len(histories), k), -1, dtype=torch.int64)
        scores = torch.full((len(histories), k), -torch.inf)
        warm = [i for i, history in enumerate(histories) if history]
        if len(warm) < len(histories):
            cold = torch.tensor([i for i, history in enumerate(histories) if not history])
            order = snapshot.by_popularity
            if allowed is not None:
                order = order[np.isin(order, np.asarray(allowed, dtype=np.int64))]
            top = torch.from_numpy(order[:k].copy())
            share = snapshot.items["popularity"].gather(top.numpy()).to_numpy() / snapshot.total_popularity
            rows[cold, : len(top)] = top
            scores[cold, : len(top)] = torch.from_numpy(share.astype(np.float32))
        if warm and snapshot.n:
            own = [histories[i] for i in warm]
            query = self.encode(snapshot, own)
            hidden: list[Sequence[int]] = [list(set(h)) for h in own] if exclude_seen else [[]] * len(own)
            best, found = self._topk(snapshot, query, k, hidden, allowed)
            place = torch.tensor(warm)
            rows[place, : found.shape[1]], scores[place, : found.shape[1]] = found, best
        return rows, scores

    def encode(self, snapshot: Snapshot, histories: Sequence[Sequence[int]]) -> Tensor:
        """Encode non-empty histories of rows -> float32 [B, d], normalised where similarity is the cosine."""
        cut = [history[-self.window :] for history in histories]
        flat = torch.tensor([row for history in cut for row in history])
        return self.network.encode(flat, [len(history) for history in cut], snapshot.vectors)

    def _topk(
        self,
        snapshot: Snapshot,
        query: Tensor,
        k: int,
        hidden: Sequence[Sequence[int]],
        allowed: Sequence[int] | None,
    ) -> tuple[Tensor, Tensor]:
        if allowed is not None:
            subset = torch.tensor(sorted(allowed), dtype=torch.int64)
            place = {row: i for i, row in enumerate(subset.tolist())}
            inner = [[place[row] for row in own if row in place] for own in hidden]
            best, found = search.exact_topk(query, snapshot.candidates[subset], k, _pairs(inner))
            return best, torch.where(found >= 0, subset[found.clamp(min=0)] if len(subset) else found, -1)
        index = snapshot.index
        if index is None or k > index.n // 4 or not index.pays(len(query)):
            return search.exact_topk(query, snapshot.candidates, k, _pairs(hidden), snapshot.dead)
        return self._approximate(snapshot, index, query, k, hidden)

    def _approximate(
        self,
        snapshot: Snapshot,
        index: search.ApproximateIndex,
        query: Tensor,
        k: int,
        hidden: Sequence[Sequence[int]],
    ) -> tuple[Tensor, Tensor]:
        """Index for its items, exact search for those added since; exact altogether where the index finds too few."""
        table, dead = snapshot.candidates, snapshot.dead
        extra = max((len(own) for own in hidden if len(own) <= LONG), default=0)
        rows = index.search(query, k + extra, snapshot.alive_bits)
        best, found = search.rescore(query, table, rows, k, _pairs(hidden), dead)
        if snapshot.n > index.n:
            inner = [[row - index.n for row in own if row >= index.n] for own in hidden]
            newer = dead[dead >= index.n] - index.n
            best2, found2 = search.exact_topk(query, table[index.n :], k, _pairs(inner), newer)
            found2 = torch.where(found2 >= 0, found2 + index.n, -1)
            best, found = torch.cat([best, best2], 1), torch.cat([found, found2], 1)
            best, place = best.topk(min(k, best.shape[1]), dim=1)
            found = found.gather(1, place)
        if best.shape[1] < k:
            missing = k - best.shape[1]
            best = torch.nn.functional.pad(best, (0, missing), value=-torch.inf)
            found = torch.nn.functional.pad(found, (0, missing), value=-1)
        redo = torch.tensor([len(own) > LONG for own in hidden]) | (found[:, -1] < 0)
        if redo.any():
            some = redo.nonzero().squeeze(1)
            again = search.exact_topk(query[some], table, k, _pairs([hidden[i] for i in some.tolist()]), dead)
            best[some], found[some] = again
        return best, found

    def similar_items(self, item: str, k: int = 10) -> Recommendations:
        """The items whose vectors are nearest to that of `item`, itself left out.

        Scores are cosines of adapted vectors (in the transductive form with ID embeddings), or inner products for
        models without cosine.

        Raises
        ------
        UserError
            If the item is unknown or k below 1.
        """
        _check_k(k)
        snapshot = self.snapshot
        row = self._row(snapshot, item)
        return self._near(snapshot, snapshot.candidates[row : row + 1], k, [row])

    def _near(self, snapshot: Snapshot, vector: Tensor, k: int, hidden: list[int]) -> Recommendations:
        best, found = self._topk(snapshot, vector, k, [hidden], None)
        rows = found[0][found[0] >= 0].numpy()
        return Recommendations(
            snapshot.ids(rows), snapshot.titles(rows), best[0][: len(rows)].tolist(), version=snapshot.version
        )

    def _row(self, snapshot: Snapshot, item: str) -> int:
        _check_ids([item], "item")
        row = snapshot.row(item)
        if row is None:
            raise UserError(_unknown([item], "the request"))
        return row

    def explain(self, history: History, item: str) -> Explanation:
        """Which items of the history, and which experts of the adaptor, speak for recommending `item`.

        *History*: the weight of an item is s(history) − s(history without that item), where s is the score of `item`:
        leave-one-out, in units of the score. Positive speaks for `item`. With a history of one the score without it is
        taken as 0. Items beyond the `window` newest weigh 0, for the model does not read them.

        *Experts*: v = Σ_k g_k·(x − b_k)·W_k is a sum over experts (paper Eq. 3 to 5), and so is the score q·v/‖v‖. The
        weight of an expert is its summand g_k·q·((x − b_k)·W_k)/‖v‖; with `id_weight`, the summand of the ID embedding
        (transductive), they add up to the score. `gate` is g_k.

        Raises
        ------
        UserError
            If `item`, or all of the history, is unknown. Unknown items in the history are left out.
        """
        _check_ids(history, "a history")
        snapshot = self.snapshot
        row = self._row(snapshot, item)
        rows, unknown = rows_of(snapshot, history)
        if not rows:
            raise UserError(
                _unknown(unknown, "the history") if unknown else "the history is empty; there is nothing to explain"
            )
        read = rows[-self.window :]
        queries = self.encode(snapshot, [read, *(read[:i] + read[i + 1 :] for i in range(len(read)) if len(read) > 1)])
        target = snapshot.candidates[row]
        scores = (queries @ target).tolist()
        without = scores[1:] or [0.0]
        weights = [0.0] * (len(rows) - len(read)) + [scores[0] - s for s in without]
        features = snapshot.features_of([row])
        experts: list[tuple[float, float]] = []
        id_weight = 0.0
        if features is not None and self.network.moe_adaptor is not None:
            with torch.inference_mode():
                parts = self.network.experts(features)[0]  # (G, d)
                shares = parts @ queries[0] / snapshot.norms[row]
                gates = self.network.moe_adaptor.gates(self.network.adaptor_input(features))[0]
            experts = list(zip(gates.tolist(), shares.tolist(), strict=True))
            id_weight = scores[0] - float(shares.sum()) if self.meta.form == "transductive" else 0.0
        ids, titles = snapshot.ids(rows), snapshot.titles(rows)
        title = snapshot.titles([row])[0]
        return Explanation(item, title, scores[0], list(zip(ids, titles, weights, strict=True)), experts, id_weight)

    def preview(self, text: str, history: History = (), k: int = 10) -> Placement:
        """Where an item with this text would be recommended, without adding it.

        Raises
        ------
        UserError
            If the text is empty or cannot be encoded.
        """
        _check_k(k)
        if not text.strip():
            raise UserError("the text of the item is empty; write what it is")
        snapshot = self.snapshot
        features = self._encode_texts([_clean(text)])
        vector = self.network.scaled(self.network.adapt(torch.from_numpy(features)))[0]
        rows, _ = rows_of(snapshot, history)
        score = rank = None
        if rows:
            query = self.encode(snapshot, [rows])[0]
            score = float(query @ vector)
            seen = torch.tensor(sorted(set(rows)))
            better = int((snapshot.candidates @ query > score).sum())
            for out in (seen, snapshot.dead):
                better -= int((snapshot.candidates[out] @ query > score).sum())
            rank = better + 1
        reach = None
        if len(self.queries):
            reach = float((self.queries @ vector > self._tenth(snapshot)).float().mean())
        similar = self._near(snapshot, vector.unsqueeze(0), k, [])
        return Placement(score, rank, snapshot.n_items, similar, reach, len(self.queries))

    def _tenth(self, snapshot: Snapshot) -> Tensor:
        """Score of the tenth item for each of the kept histories, float32 [q]."""
        kept = self._thresholds
        if kept is None or kept[0] != snapshot.version:
            best, _ = self._topk(snapshot, self.queries, 10, [[]] * len(self.queries), None)
            kept = self._thresholds = (snapshot.version, best[:, -1])
        return kept[1]

    # --- changes

    def set_encoder(self, name: str | TextEncoder, pooling: str | None = None) -> None:
        """Choose how new texts are encoded, where the model does not say it, or give a loaded `TextEncoder`.

        `save` keeps the choice.

        Raises
        ------
        UserError
            If it does not give the catalogue's texts the vectors that they have.
        """
        from dataset_tools.features import TextEncoder

        recorded = self.meta.encoder
        if isinstance(name, str):
            encoder = TextEncoder.load(
                name,
                pooling or str(recorded.get("pooling", "CLS")),
                int(recorded.get("max_length", 512)),
                str(recorded.get("prompt", "")),
            )
        else:
            encoder = name
        self._check_encoder(encoder)
        self._encoder = encoder
        names = {"encoder": "name", "pooling": "pooling", "max_length": "max_length", "prompt": "prompt"}
        known = {key: getattr(encoder, name) for key, name in names.items()}
        self.meta = dataclasses.replace(self.meta, encoder=known)

    def _check_encoder(self, encoder: TextEncoder) -> None:
        snapshot = self.snapshot
        if encoder.width != self.settings.plm_size:
            raise UserError(
                f"the encoder {encoder.name!r} gives vectors of width {encoder.width}, the model was trained on width "
                f"{self.settings.plm_size}; use the encoder it was trained with{self._recorded()}"
            )
        n = len(snapshot.features[0]) if snapshot.features else 0
        rows = np.unique(np.linspace(0, n - 1, min(PROBES, n)).astype(np.int64)).tolist()
        kept = snapshot.features_of(rows) if rows else None
        if kept is None:
            return
        again = torch.from_numpy(encoder.encode([_clean(t) for t in snapshot.items["text"].gather(rows).to_list()]))
        cosine = torch.nn.functional.cosine_similarity(kept, again)
        if float(cosine.median()) < SAME:
            raise UserError(
                f"the encoder {encoder.name!r} is not the one the model was trained with{self._recorded()}: its "
                f"vectors of the catalogue's texts have a cosine of {float(cosine.median()):.3f} with those kept; "
                "install that one, or train the model again"
            )

    def _recorded(self) -> str:
        encoder = self.meta.encoder
        return f" ({encoder['encoder']} {encoder.get('pooling', 'CLS')})" if "encoder" in encoder else ""

    def _encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d_plm]."""
        if self.network.moe_adaptor is None:
            raise UserError(f"{self.meta.model} has no text adaptor, so it knows only the items it was trained on")
        with self._lock:
            if self._encoder is None:
                if "encoder" not in self.meta.encoder:
                    raise UserError(
                        "the model does not say which encoder made its text features; name it (--encoder, or "
                        "set_encoder in Python), or give the features of the new items"
                    )
                self.set_encoder(str(self.meta.encoder["encoder"]))
            assert self._encoder is not None
            features = self._encoder.encode(texts)
        if not np.isfinite(features).all():
            raise UserError(f"the encoder {self._encoder.name!r} gives NaN or infinity for a text")
        return features

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
        ids, texts, titles = _check_items(rows)
        if self.network.moe_adaptor is None:
            self._encode_texts([])
        if not replace:
            self._check_new(self.snapshot, ids)
        if not rows:
            return 0
        if features is None:
            features = self._encode_texts(texts)
        features = np.asarray(features, dtype=np.float32)
        due = (len(rows), self.settings.plm_size)
        if features.shape != due or not np.isfinite(features).all():
            raise UserError(f"features have shape {list(features.shape)}, {list(due)} finite numbers are due")
        with torch.inference_mode():
            candidates, norms = _candidates(
                self.network.adapt(torch.from_numpy(features)).numpy(), self.settings.cosine
            )
        with self._lock:
            existing = [item for item in ids if self.snapshot.row(item) is not None]
            if existing and not replace:
                self._check_new(self.snapshot, ids)  # added by another thread meanwhile
            self._catalogue.append(item_frame(ids, texts, titles), candidates, norms, features, existing)
            index = self.snapshot.index
            if index is not None and self.snapshot.n - index.n > max(TAIL, index.n // 4):
                self.build_index()
        return len(rows)

    def _check_new(self, snapshot: Snapshot, ids: Sequence[str]) -> None:
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
        _check_ids(wanted, "the items to remove")
        with self._lock:
            _, unknown = rows_of(self.snapshot, wanted)
            if unknown:
                raise UserError(_unknown(unknown, "the items to remove"))
            if wanted:
                self._catalogue.remove(wanted)
        return len(wanted)

    def build_index(
        self, target: float = search.RECALL, say: Callable[[str], None] | None = None
    ) -> search.ApproximateIndex:
        """Build the approximate index over all items, and report its recall.

        Raises
        ------
        UserError
            If faiss is not installed, or the folder keeps no histories to measure recall with.
        """
        if not len(self.queries):
            raise UserError("the model keeps no histories to measure an approximate index with; use index='exact'")
        with self._lock:
            snapshot = self.snapshot
            built = search.build_index(snapshot.candidates, self.queries, target)
            self._catalogue.publish(snapshot.with_index(built))
        line = (
            f"index over {built.n:,} items: recall@{search.RECALL_K} {built.recall:.4f} against the exact answer of "
            f"{built.n_queries} real histories ({built.n_probe} of {built.faiss_index.nlist} cells searched)"
        )
        (say or log.info)(line)
        return built

    def save(self, path: str | Path) -> Path:
        """Write one folder with all that serving needs, whole or not at all; a saved model there is replaced.

        Raises
        ------
        UserError
            If it cannot be written, or `path` holds something else.
        """
        path = Path(path)
        check_target(path)
        with self._lock:
            snapshot = self.snapshot
            if snapshot.index is not None and snapshot.alive_bits is not None:
                # rows of the file are those of the living; the index counts the dead
                rows = torch.from_numpy(np.flatnonzero(snapshot.alive))
                compact = snapshot.candidates[rows]
                index = search.build_index(compact, self.queries) if len(rows) >= search.APPROXIMATE_FROM else None
            else:
                index = snapshot.index
            write_folder(path, self.meta, self.settings, self.network, snapshot, index, self.queries)
        return path


def _clean(text: str) -> str:
    """A text as dataset files hold it: on one line, and "." where there is none."""
    from dataset_tools.features import EMPTY

    return re.sub("[\t\r\n]", " ", text).strip() or EMPTY


def _candidates(table: np.ndarray, cosine: bool, spare: int = 0) -> tuple[Tensor, Tensor]:
    """Normalised copy of a table [n, d], and what each row was divided by, both with room for `spare` more rows."""
    n, width = table.shape
    candidates, norms = torch.empty(n + spare, width), torch.ones(n + spare)
    for start in range(0, n, 1 << 16):
        block = torch.from_numpy(np.array(table[start : start + (1 << 16)], dtype=np.float32))
        if not torch.isfinite(block).all():
            raise UserError("the table of items holds NaN or infinity; train or save the model again")
        if cosine:
            norm = block.norm(dim=1).clamp_(min=1e-12)
            norms[start : start + len(block)] = norm
            block /= norm.unsqueeze(1)
        candidates[start : start + len(block)] = block
    return candidates, norms


def _pairs(hidden: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor] | None:
    """(query, item) pairs sorted by item, as `exact_topk` wants them."""
    counts = [len(own) for own in hidden]
    if not sum(counts):
        return None
    items = torch.tensor([row for own in hidden for row in own])
    queries = torch.repeat_interleave(torch.arange(len(hidden)), torch.tensor(counts))
    items, order = items.sort()
    return queries[order], items


def _check_ids(ids: Sequence[str], what: str) -> None:
    if isinstance(ids, str):
        raise UserError(f"{what} must be a list of item ids, not the text {ids[:40]!r}")
    for item in ids:
        if not isinstance(item, str):
            raise UserError(f"{what} holds {item!r}, but item ids are text; write it in quotes")


def _check_k(k: int) -> None:
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise UserError(f"k is {k!r}; it must be a whole number of 1 or more")


def _check_items(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str], list[str | None]]:
    ids, texts, titles = [], [], []
    for number, row in enumerate(rows, start=1):
        item, text, title = row.get("item_id"), row.get("text"), row.get("title")
        if not isinstance(item, str) or not item:
            raise UserError(f"new item {number} has the id {item!r}; it must be a text that is not empty")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"new item {item!r} has no text; the model knows an item by its text, so write one")
        ids.append(item)
        texts.append(_clean(text))
        titles.append(title if isinstance(title, str) and title.strip() else None)
    if len(set(ids)) < len(ids):
        twice = next(item for i, item in enumerate(ids) if item in ids[:i])
        raise UserError(f"item {twice!r} occurs more than once among the new items; leave one out")
    return ids, texts, titles


def _unknown(items: Sequence[str], what: str) -> str:
    return (
        f"{len(items)} items of {what} are not in the catalogue, for example {items[0]!r}; add them or leave them out"
    )
