"""The model that is served now, and the threads that work on it: who reads never waits for who writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException

from dataset_tools.encoder_process import EncoderProcess
from recbole_unisrec.serving.folder import CONFIG, stamp_of
from recbole_unisrec.serving.locks import writing
from recbole_unisrec.serving.metrics import Metrics
from recbole_unisrec.serving.recommender import Recommender, load
from recbole_unisrec.serving.snapshot import search_items

WRITES = 64  # changes that wait; beyond them the answer is 503
NICE = 2  # what the threads in the background leave to the others
log = logging.getLogger("recbole_unisrec.serving")
T = TypeVar("T")


def _in_the_background() -> None:
    """Let this thread have the processor only where no other wants it."""
    if sys.platform == "linux":  # elsewhere the call means the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


@dataclass(frozen=True)
class Following:
    """A saved model whose folder is watched.

    Attributes
    ----------
    path, index, precision
        As `load` takes them.
    shared
        Whether other workers serve the same folder; changes then go into the folder, from where all take them over.
    seconds
        Between two looks at it; 0 for none.
    """

    path: Path
    index: str = "auto"
    precision: str = "fp32"
    shared: bool = False
    seconds: float = 2.0


class Served:
    """A recommender that can be replaced by another while it answers.

    Attributes
    ----------
    rec
        The one that answers now; take it once for each request.
    """

    def __init__(self, rec: Recommender, metrics: Metrics | None = None, following: Following | None = None) -> None:
        self.rec, self.following = rec, following
        self.metrics = metrics or Metrics()
        self._answers = ThreadPoolExecutor(1, "answer")
        self._looks = ThreadPoolExecutor(2, "look")
        self._previews = ThreadPoolExecutor(1, "preview")  # they encode too, and come before the changes that do
        self._writes = ThreadPoolExecutor(1, "write", _in_the_background)
        self._loads = ThreadPoolExecutor(1, "load", _in_the_background)
        self._waiting = 0
        self._swap = threading.Lock()  # held by who changes the model, or puts another in its place
        self._refused = ""  # stamp of a folder that could not be taken over

    # --- readers

    async def answer(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what recommends."""
        return await asyncio.get_running_loop().run_in_executor(self._answers, work, *arguments)

    async def look(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what only reads."""
        return await asyncio.get_running_loop().run_in_executor(self._looks, work, *arguments)

    async def preview(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what encodes a text and changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._previews, work, *arguments)

    # --- writers

    async def _write(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._waiting >= WRITES:
            raise HTTPException(503, "too many changes are waiting; try again", {"Retry-After": "5"})
        self._waiting += 1
        self.metrics.writes.set(self._waiting)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writes, work, *arguments)
        finally:
            self._waiting -= 1
            self.metrics.writes.set(self._waiting)

    async def add(self, items: Sequence[Mapping[str, Any]], replace: bool) -> int:
        """Add items, see `Recommender.add_items`.

        Raises
        ------
        HTTPException
            503 if too many changes wait.
        """
        n = await self._write(self._add, items, replace)
        self.metrics.changed.inc(n)
        return n

    async def remove(self, ids: Sequence[str]) -> int:
        """Remove items, see `Recommender.remove_items`."""
        n = await self._write(self._change, lambda rec: rec.remove_items(ids))
        self.metrics.changed.inc(n)
        return n

    def _add(self, items: Sequence[Mapping[str, Any]], replace: bool) -> int:
        while True:
            rec = self.rec
            if not replace:
                rec.check_new([str(item["item_id"]) for item in items])  # before the work of encoding
            features = rec.encode_items(items)

            def change(now: Recommender, features: np.ndarray = features) -> int:
                return now.add_items(items, features, replace)

            found = self._change(change, rec)
            if found is not None:
                return found

    def _change(self, change: Callable[[Recommender], int], meant: Recommender | None = None) -> Any:
        """Make a change, unless it was `meant` for a model that has been replaced since (None then)."""
        with self._swap:
            if meant is not None and self.rec is not meant:
                return None
            if self.following is None or not self.following.shared:
                return change(self.rec)
            path = self.following.path
            with writing(path):
                fresh = self._load()
                n = change(fresh)
                fresh.save(path)
            self._take(self._load())
            return n

    # --- another model

    def _load(self) -> Recommender:
        assert self.following is not None
        f = self.following
        found = load(f.path, index=f.index, precision=f.precision, share=f.shared)
        found.max_items, found.texts.loader = self.rec.max_items, self.rec.texts.loader
        if found.texts.recorded == self.rec.texts.recorded:
            found.texts.encoder = self.rec.texts.encoder  # it was checked, and is loaded
        return found

    def _take(self, new: Recommender) -> None:
        warm(new)
        new.raise_version(self.rec.snapshot.version + 1)
        self.rec = new
        self.measure()

    def measure(self) -> None:
        """Tell the metrics what is served."""
        self.metrics.items.set(self.rec.snapshot.n_items)
        self.metrics.version.set(self.rec.snapshot.version)

    def reload(self) -> bool:
        """Take over the folder's model if it is another one; True if so.

        Changes that were made here and not saved are made to it too. A model that cannot be read, or cannot take them,
        is left out with a line in the log, and the old one goes on answering.
        """
        assert self.following is not None
        path, stamp = self.following.path, stamp_of(self.following.path)
        origin = self.rec.origin
        if not stamp or stamp == self._refused or (origin is not None and stamp == origin.stamp):
            return False
        try:
            new = self._load()
            with self._swap:
                n, both = len(self.rec.changed), new.adopt(self.rec) if self.rec.changed else []
                self._take(new)
        except Exception as error:
            self._refused = stamp
            self.metrics.reloads.labels("failed").inc()
            log.error("%s was replaced, but the model of before goes on answering: %s", path, error)
            return False
        self.metrics.reloads.labels("taken").inc()
        log.info("%s was replaced and is served now: %d items, %d changes of before kept", path, len(new), n)
        if both:
            log.warning(
                "%d items were changed there too, for example %r; the change of here is kept", len(both), both[0]
            )
        return True

    async def follow(self) -> None:
        """Watch the folder until cancelled."""
        if self.following is None or not self.following.seconds:
            return
        seen = self._mark()
        while True:
            await asyncio.sleep(self.following.seconds)
            now = self._mark()
            if now != seen:
                seen = now
                await asyncio.get_running_loop().run_in_executor(self._loads, self.reload)

    def _mark(self) -> tuple[int, ...]:
        assert self.following is not None
        try:
            status = (self.following.path / CONFIG).stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def close(self) -> None:
        """Let the threads go; what waits is left."""
        for pool in (self._answers, self._looks, self._previews, self._writes, self._loads):
            pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(self.rec.texts.encoder, EncoderProcess):
            self.rec.texts.encoder.close()


def warm(rec: Recommender) -> None:
    """Compute now what would be computed at the first requests."""
    for history in ([], rec.snapshot.ids(rec.snapshot.by_popularity[:1])):
        rec.recommend(history, 1)
    search_items(rec.snapshot, "a", 1)
