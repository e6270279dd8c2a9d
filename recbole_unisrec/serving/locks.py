"""One writer at a time for a saved model's folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_unisrec.errors import UserError

PATIENCE = 120  # seconds for another program to finish writing


@functools.lru_cache(maxsize=256)
def _lock(path: Path) -> FileLock:
    return FileLock(path)  # may be taken again by the thread that holds it


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the right to write a folder; the lock is an empty file beside it, which stays.

    Raises
    ------
    UserError
        If another program keeps it for too long, or the place cannot be written.
    """
    place = folder.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(place.with_name(f".{place.name}.lock"))
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(
            f"another program has been writing {folder} for {PATIENCE} seconds; wait until it is done, and try again"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write beside {folder}: {error.strerror or error}; choose a folder you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()
