"""Put a new folder in the place of an old one, so that whoever is killed when leaves the old or the new one."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # Linux: renameat2(2)
RENAME_SWAP = 2  # macOS: renamex_np(2)
PATIENCE = 2  # seconds that a swap may lie between its two renames
# where the file system or the kernel cannot exchange names
UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot.

    Raises
    ------
    OSError
        If it could, but these two not.
    """
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = system.renamex_np(first, second, ctypes.c_uint(RENAME_SWAP))
        else:
            failed = system.renameat2(AT_FDCWD, first, AT_FDCWD, second, ctypes.c_uint(RENAME_EXCHANGE))
    except (OSError, AttributeError, TypeError):  # no such call in this C library
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def swap(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; what was there goes only after the new one has its name.

    Where two names can be exchanged there is a folder of that name at every moment. Elsewhere there is none between two
    renames, and who is killed there leaves the old one beside, where `recover_folder` finds it.
    """
    if not folder.exists():
        os.rename(new, folder)
    elif exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
        os.rename(folder, old / folder.name)
        try:
            os.rename(new, folder)
        except OSError:
            os.rename(old / folder.name, folder)
            raise
        finally:
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def recover_folder(folder: Path) -> bool:
    """Give a folder its name back that a killed `swap` left beside; True if there was one.

    A swap that is under way is waited for.
    """
    if folder.exists() or not folder.parent.is_dir():
        return False
    stop = time.monotonic() + PATIENCE
    while left := [
        old for old in folder.parent.glob(f".{_literal(folder.name)}.*.old") if (old / folder.name).is_dir()
    ]:
        if folder.exists():
            return False
        if time.monotonic() > stop:
            newest = max(left, key=lambda path: path.stat().st_mtime_ns)
            os.rename(newest / folder.name, folder)
            newest.rmdir()
            return True
        time.sleep(0.05)
    return False


def _literal(name: str) -> str:
    """A name without meaning for glob."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _sync(folder: Path) -> None:
    """Names of files, too, are on the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
