"""Load a recommender, and save it: the Python API."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset_tools.swap import recover_folder
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving import index as search
from recbole_unisrec.serving.answers import Explanation, Placement, Recommendations
from recbole_unisrec.serving.asking import BATCH, Asking, History
from recbole_unisrec.serving.changing import TAIL, Changing, FullError
from recbole_unisrec.serving.folder import CONFIG, Parts, check_target, revision_of, stamp_of, write_folder
from recbole_unisrec.serving.locks import writing
from recbole_unisrec.serving.reading import read_folder

__all__ = [
    "BATCH", "TAIL", "Explanation", "FullError", "History", "Origin", "Placement", "Recommendations", "Recommender", "load",
]  # fmt: skip

log = logging.getLogger("recbole_unisrec.serving")


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


class Recommender(Asking, Changing):
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
        super().__init__(parts, index, precision, share)
        self.max_items: int | None = None
        self.origin: Origin | None = None
        self.changed: dict[str, str | None] = {}

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
