"""Batches made a step ahead in a thread, in memory that a GPU copies from without waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

DEPTH = 4  # batches ready at most


def pinned(value: Any) -> Any:
    """The same batch with its tensors in page-locked memory."""
    if isinstance(value, Tensor):
        return value.pin_memory() if value.device.type == "cpu" else value
    if isinstance(value, list):
        return [pinned(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: pinned(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **changed)
    return value


def ahead(batches: Any, device: torch.device) -> Any:
    """`batches` as they are on a CPU, whose cores a thread would only share; else `in_thread`, pinned."""
    return batches if device.type != "cuda" else in_thread(batches, pinned)


def in_thread(batches: Iterable[Any], finish: Any = None, depth: int = DEPTH) -> Iterator[Any]:
    """The same batches in the same order, made by a thread that is up to `depth` ahead.

    An error of the thread is raised here. The thread ends when the iterator is closed.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    over = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not over.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put((True, batch if finish is None else finish(batch))):
                    return
            put((False, None))
        except BaseException as error:  # handed to the reader, who raises it
            put((False, error))

    thread = threading.Thread(target=work, daemon=True, name="batches ahead")
    thread.start()
    try:
        while True:
            more, value = ready.get()
            if more:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        over.set()
        thread.join(timeout=5)
