"""The encoder of new texts: the one that the model was trained with, loaded at the first text, and checked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.checks import clean
from recbole_unisrec.serving.side_by_side import PARTS, SideBySide, made_elsewhere
from recbole_unisrec.serving.snapshot import Snapshot

if TYPE_CHECKING:
    from dataset_tools.features import TextEncoder

PROBES = 8  # texts of the catalogue whose encoding must come out as it was before new texts are encoded
TEXTS = 64  # encoded at a time
SAME = 0.999  # cosine from which two encodings of a text count as the same


class Turns:
    """Lets one at a time in, the urgent ones first."""

    def __init__(self) -> None:
        self._free, self._busy, self._urgent = threading.Condition(), False, 0

    @contextmanager
    def turn(self, urgent: bool) -> Iterator[None]:
        """Wait for one's turn, and have it."""
        with self._free:
            self._urgent += urgent
            self._free.wait_for(lambda: not self._busy and (urgent or not self._urgent))
            self._urgent -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._free:
                self._busy = False
                self._free.notify_all()


class Texts:
    """Encodes texts of new items.

    Attributes
    ----------
    recorded
        How the texts of the catalogue became features, see `serving.folder.Meta.encoder`.
    encoder
        The loaded encoder; None until it is needed.
    loader
        What loads a language model; None for `TextEncoder.load`.
    """

    def __init__(self, recorded: dict[str, Any], width: int, fitted: LatentSemantics | None) -> None:
        self.recorded, self.width = recorded, width
        self._fitted = fitted
        self.encoder: TextEncoder | LatentSemantics | SideBySide | None = None
        self.loader: Callable[[str, str, int, str], Any] | None = None
        self._turns = Turns()

    @property
    def fitted(self) -> LatentSemantics | None:
        """The encoder, where it was fitted to the texts and so belongs to the model."""
        return self.encoder if isinstance(self.encoder, LatentSemantics) else self._fitted

    def choose(self, name: str | TextEncoder | LatentSemantics, pooling: str | None, snapshot: Snapshot) -> None:
        """The work of `Recommender.set_encoder`."""
        from dataset_tools.features import TextEncoder

        encoder: TextEncoder | LatentSemantics
        if isinstance(name, str) and name.endswith(".npz"):
            encoder = LatentSemantics.load(name)
        elif isinstance(name, str):
            encoder = (self.loader or TextEncoder.load)(
                name,
                pooling or str(self.recorded.get("pooling", "CLS")),
                int(self.recorded.get("max_length", 512)),
                str(self.recorded.get("prompt", "")),
            )
        else:
            encoder = name
        self._check(encoder, snapshot)
        names = {"encoder": "name", "pooling": "pooling", "max_length": "max_length", "prompt": "prompt"}
        self.encoder, self.recorded = encoder, {key: getattr(encoder, name) for key, name in names.items()}

    def _check(self, encoder: TextEncoder | LatentSemantics | SideBySide, snapshot: Snapshot) -> None:
        if encoder.width != self.width:
            raise UserError(
                f"the encoder {encoder.name!r} gives vectors of width {encoder.width}, the model was trained on width "
                f"{self.width}; use the encoder it was trained with{self._named()}"
            )
        n = len(snapshot.features[0]) if snapshot.features else 0
        rows = np.unique(np.linspace(0, n - 1, min(PROBES, n)).astype(np.int64)).tolist()
        kept = snapshot.features_of(rows) if rows else None
        if kept is None:
            return
        again = torch.from_numpy(encoder.encode([clean(t) for t in snapshot.items["text"].gather(rows).to_list()]))
        cosine = torch.nn.functional.cosine_similarity(kept, again)
        if float(cosine.median()) < SAME:
            raise UserError(
                f"the encoder {encoder.name!r} is not the one the model was trained with{self._named()}: its "
                f"vectors of the catalogue's texts have a cosine of {float(cosine.median()):.3f} with those kept; "
                "install that one, or train the model again"
            )

    def _named(self) -> str:
        known = self.recorded
        return f" ({known['encoder']} {known.get('pooling', 'CLS')})" if "encoder" in known else ""

    def encode(self, texts: Sequence[str], snapshot: Snapshot, urgent: bool = False) -> np.ndarray:
        """Encode texts -> float32 [n, d_plm], a few at a time; who is `urgent` need not wait for more than those.

        `snapshot` is what a newly loaded encoder is checked against.

        Raises
        ------
        UserError
            If the encoder is unknown, cannot be loaded or is another than in training, or gives no finite numbers.
        """
        if self.encoder is None:
            with self._turns.turn(urgent):
                if self.encoder is None and (files := made_elsewhere(self.recorded)):
                    raise UserError(
                        f"the model reads item vectors that were made elsewhere ({', '.join(files)}), so a text is not "
                        "enough; give those of the new items (unisrec add-items --vectors, features in Python)"
                    )
                if self.encoder is None and PARTS in self.recorded:
                    both = SideBySide.load(self.recorded[PARTS], self._fitted)
                    self._check(both, snapshot)
                    self.encoder = both
                if self.encoder is None:
                    if "encoder" not in self.recorded:
                        raise UserError(
                            "the model does not say which encoder made its text features; name it (--encoder, or "
                            "set_encoder in Python), or give the features of the new items"
                        )
                    self.choose(self._fitted or str(self.recorded["encoder"]), None, snapshot)
        assert self.encoder is not None
        features = np.empty((len(texts), self.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like lengths need little padding
        for start in range(0, len(order), TEXTS):
            some = order[start : start + TEXTS]
            with self._turns.turn(urgent):
                features[some] = self.encoder.encode([texts[i] for i in some])
        if not np.isfinite(features).all():
            raise UserError(f"the encoder {self.encoder.name!r} gives NaN or infinity for a text")
        return features
