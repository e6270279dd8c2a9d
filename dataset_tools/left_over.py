"""What writers that were killed left behind: temporary files and folders, removed by the next writer a day later."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

TEMPORARY = ".tmp"  # ending of what is being written
DAY = 24 * 3600  # seconds; no writer leaves its files alone for so long


def sweep(folder: Path, start: str) -> None:
    """Remove temporary files and folders whose names begin with `start`, if nobody has written to them for a day.

    What cannot be looked at or removed stays.
    """
    limit = time.time() - DAY
    try:
        with os.scandir(folder) as entries:
            found = [
                Path(entry.path) for entry in entries if entry.name.startswith(start) and entry.name.endswith(TEMPORARY)
            ]
    except OSError:
        return
    for path in found:
        try:
            if _last_written(path) > limit:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        except OSError:  # another writer has removed it
            continue


def _last_written(path: Path) -> float:
    """Time of the last change of a file, or of a folder and what is in it."""
    newest = path.lstat().st_mtime
    if path.is_dir() and not path.is_symlink():
        for inner in path.rglob("*"):
            newest = max(newest, inner.lstat().st_mtime)
    return newest
