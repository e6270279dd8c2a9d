"""What a recommender is made of: the network, the encoder of new texts, and the catalogue as it is now."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.text_path import usual_popularity
from recbole_unisrec.serving import index as search
from recbole_unisrec.serving.catalogue import Catalogue
from recbole_unisrec.serving.folder import Parts
from recbole_unisrec.serving.network import Network
from recbole_unisrec.serving.ranking import Ranker
from recbole_unisrec.serving.snapshot import Snapshot
from recbole_unisrec.serving.texts import Texts

if TYPE_CHECKING:
    from dataset_tools.features import TextEncoder

log = logging.getLogger("recbole_unisrec.serving")


class Held:
    """The parts that answers and changes share; made by `serving.recommender.Recommender`.

    Attributes
    ----------
    meta
        What model it is, see `serving.folder.Meta`.
    window
        Items of a history that the model reads, the newest.
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
        if share and parts.norms is not None:
            candidates, norms = torch.from_numpy(parts.table), torch.from_numpy(parts.norms)
        else:
            # room at the end, so that the first new items do not copy the table
            spare = 1024 + len(parts.table) // 8
            candidates, norms = candidates_of(parts.table, parts.network, spare, parts.norms)
        kept = parts.index if index != "exact" else None
        self._catalogue = Catalogue(parts.items, candidates, norms, parts.features, kept, parts.revision)
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

    def _vectors(self, features: np.ndarray) -> Tensor:
        """Vectors of new items from their text features, float32 [n, d_plm] -> [n, d], with the columns of a path."""
        given = torch.from_numpy(features)
        return self.network.widened(self.network.adapt(given), given, self._usual.expand(len(given)))

    @cached_property
    def _usual(self) -> Tensor:
        counts = self.snapshot.items["popularity"].to_numpy()
        return usual_popularity(torch.from_numpy(np.array(counts, dtype=np.int64)))

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


def candidates_of(
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
