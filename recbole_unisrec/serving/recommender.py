"""Recommendations from text histories: the Python API."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from dataset_tools.lsa import LatentSemantics
from dataset_tools.swap import recover_folder
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.text_path import usual_popularity
from recbole_unisrec.serving import explain as reasons
from recbole_unisrec.serving import index as search
from recbole_unisrec.serving.answers import Explanation, Placement, Recommendations
from recbole_unisrec.serving.catalogue import Catalogue, Snapshot, item_frame, rows_of
from recbole_unisrec.serving.checks import check_ids, check_items, check_k, clean, unknown_ids
from recbole_unisrec.serving.folder import CONFIG, Parts, check_target, read_folder, revision_of, stamp_of, write_folder
from recbole_unisrec.serving.locks import writing
from recbole_unisrec.serving.network import Network
from recbole_unisrec.serving.ranking import Ranker
from recbole_unisrec.serving.texts import Texts

if TYPE_CHECKING:
    from dataset_tools.features import TextEncoder

log = logging.getLogger("recbole_unisrec.serving")

TAIL = 50_000  # items beyond the approximate index, which are searched exactly
BATCH = 1024  # histories ranked at a time

History = Sequence[str]


@dataclass(frozen=True)
class Origin:
    """The folder that a recommender was loaded from: where, in which state (`serving.folder.stamp_of`), and how."""

    path: Path
    stamp: str
    revision: int
    index: str
    precision: str


def load(
    path: str | Path,
    data_path: str | Path | None = None,
    index: str = "auto",
    precision: str = "fp32",
    share: bool = False,
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
    share
        Leave the item vectors of a folder on disk, where all processes that load it share them, instead of copying them
        into memory; the first new item makes a copy.

    Raises
    ------
    UserError
        If files are missing, damaged or of another kind.
    """
    path = Path(path)
    recover_folder(path)
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
    rec = Recommender(parts, index, precision, share)
    if parts.stamp:
        rec.origin = Origin(path.resolve(), parts.stamp, parts.revision, index, precision)
    return rec


class FullError(UserError):
    """The catalogue has as many items as are allowed."""


class Recommender:
    """Recommends, and lets the catalogue change meanwhile; make one with `load`.

    All methods may be called from several threads. Each answer comes from one state of the catalogue.

    Attributes
    ----------
    meta
        What model it is, see `serving.folder.Meta`.
    window
        Items of a history that the model reads, the newest.
    max_items
        Adding beyond so many items is refused; None for no limit.
    origin
        The folder it was loaded from, None where that was none.
    changed
        Items that were added, replaced or removed since then, with the texts that they had there (None: were not there).
    """

    def __init__(self, parts: Parts, index: str = "auto", precision: str = "fp32", share: bool = False) -> None:
        if index not in ("auto", "exact", "approximate"):
            raise UserError(f"unknown index {index!r}; use auto, exact or approximate")
        self.meta, self.settings, self.network = parts.meta, parts.settings, parts.network
        self.network.use_precision(precision)
        self.window, self.queries = parts.settings.window, parts.queries
        self.ranker = Ranker(parts.network, parts.settings.window)
        self.texts = Texts(parts.meta.encoder, parts.settings.plm_size, parts.encoder)
        self._lock = threading.RLock()  # of changes; answers need none
        self.max_items: int | None = None
        self.origin: Origin | None = None
        self.changed: dict[str, str | None] = {}
        if share and parts.norms is not None:
            candidates, norms = torch.from_numpy(parts.table), torch.from_numpy(parts.norms)
        else:
            # room at the end, so that the first new items do not copy the table
            spare = 1024 + len(parts.table) // 8
            candidates, norms = _candidates(parts.table, parts.network, spare, parts.norms)
        kept = parts.index if index != "exact" else None
        self._catalogue = Catalogue(parts.items, candidates, norms, parts.features, kept, parts.revision)
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
        vector = _candidates(self._vectors(features).numpy(), self.network)[0][0]
        tenth = self.queries, self._tenth(snapshot)
        return reasons.place(self.ranker, snapshot, vector, history, k, tenth)

    def _vectors(self, features: np.ndarray) -> Tensor:
        """Vectors of new items from their text features, float32 [n, d_plm] -> [n, d], with the columns of a path."""
        given = torch.from_numpy(features)
        return self.network.widened(self.network.adapt(given), given, self._usual.expand(len(given)))

    @cached_property
    def _usual(self) -> Tensor:
        counts = self.snapshot.items["popularity"].to_numpy()
        return usual_popularity(torch.from_numpy(np.array(counts, dtype=np.int64)))

    def _tenth(self, snapshot: Snapshot) -> Tensor:
        """Score of the tenth item for each of the kept histories, float32 [q]."""
        kept = self._thresholds
        if kept is None or kept[0] != snapshot.version:
            best, _ = self.ranker.topk(snapshot, self.queries, 10, [[]] * len(self.queries))
            kept = self._thresholds = (snapshot.version, best[:, -1])
        return kept[1]

    # --- changes

    def set_encoder(self, name: str | TextEncoder | LatentSemantics, pooling: str | None = None) -> None:
        """Choose how new texts are encoded, where the model does not say it, or give a loaded encoder.

        `name` is that of a language model, or the file of an encoder fitted to texts (``NAME.feat1LSA.npz``). `save`
        keeps the choice.

        Raises
        ------
        UserError
            If it does not give the catalogue's texts the vectors that they have.
        """
        self.texts.choose(name, pooling, self.snapshot)
        self.meta = dataclasses.replace(self.meta, encoder=self.texts.recorded)

    def _encode_texts(self, texts: Sequence[str], urgent: bool = False) -> np.ndarray:
        """float32 [n, d_plm]."""
        if self.network.moe_adaptor is None:
            raise UserError(f"{self.meta.model} has no text adaptor, so it knows only the items it was trained on")
        features = self.texts.encode(texts, self.snapshot, urgent)
        self.meta = dataclasses.replace(self.meta, encoder=self.texts.recorded)
        return features

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
            candidates, norms = _candidates(self._vectors(features).numpy(), self.network)
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

    def adopt(self, other: Recommender) -> list[str]:
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
            built = self._catalogue.index_with(lambda table: search.build_index(table, self.queries, target))
        line = (
            f"index over {built.n:,} items: recall@{search.RECALL_K} {built.recall:.4f} against the exact answer of "
            f"{built.n_queries} real histories ({built.n_probe} of {built.faiss_index.nlist} cells searched)"
        )
        (say or log.info)(line)
        return built

    def save(self, path: str | Path) -> Path:
        """Write one folder with all that serving needs, whole or not at all; a saved model there is replaced.

        If it is the folder that this was loaded from, and another program has written it since, the changes made here
        are made to what lies there now, and nothing of either side is lost.

        Raises
        ------
        UserError
            If it cannot be written, or `path` holds something else.
        """
        path = Path(path)
        check_target(path)
        with writing(path), self._lock:
            origin, now = self.origin, stamp_of(path)
            if origin is not None and now and path.resolve() == origin.path and now != origin.stamp:
                fresh = load(path, index=origin.index, precision=origin.precision)
                both = fresh.adopt(self)
                log.warning("%s was written by another program meanwhile: %s", path, _told(len(self.changed), both))
                fresh.save(path)
                return path
            self._write(path, revision_of(path) + 1)
            if origin is not None and path.resolve() == origin.path:
                self.origin = dataclasses.replace(origin, stamp=stamp_of(path))
                self.changed = {}
        return path

    def _write(self, path: Path, revision: int) -> None:
        snapshot = self.snapshot
        if snapshot.index is not None and snapshot.alive_bits is not None:
            # rows of the file are those of the living; the index counts the dead
            rows = torch.from_numpy(np.flatnonzero(snapshot.alive))
            compact = snapshot.candidates[rows]
            index = search.build_index(compact, self.queries) if len(rows) >= search.APPROXIMATE_FROM else None
        else:
            index = snapshot.index
        fitted, revision = self.texts.fitted, max(revision, snapshot.version)
        write_folder(path, self.meta, self.settings, self.network, snapshot, index, self.queries, fitted, revision)


def _told(n: int, both: Sequence[str]) -> str:
    text = f"the {n} changes made here were added to its own"
    if both:
        text += f"; {len(both)} items had been changed there too, for example {both[0]!r}, and have the state of here"
    return text


def _candidates(
    table: np.ndarray, network: Network, spare: int = 0, given: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Copy of a table [n, d], normalised where similarity is the cosine, and what each row was divided by, both with room for `spare` more rows.

    Where it was divided already, `given` says by what.
    """
    n, width = table.shape
    candidates, norms = torch.empty(n + spare, width), torch.ones(n + spare)
    if given is not None:
        norms[:n] = torch.from_numpy(given)
    for start in range(0, n, 1 << 16):
        block = torch.from_numpy(np.array(table[start : start + (1 << 16)], dtype=np.float32))
        if not torch.isfinite(block).all():
            raise UserError("the table of items holds NaN or infinity; train or save the model again")
        if network.cosine and given is None:
            norm = network.lengths_of(block).squeeze(1)
            norms[start : start + len(block)] = norm
            block /= norm.unsqueeze(1)
        candidates[start : start + len(block)] = block
    return candidates, norms
