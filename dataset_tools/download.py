"""Fetch a file with resume, a progress bar and a size check. Standard library only.

A download goes to ``FILE.part`` and gets its name when it is whole; a run that was stopped goes on from there, unless
the file has changed at the publisher's in the meantime (told by its ETag or date).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset_tools import __version__
from dataset_tools.common import UserError

PIECE = 1 << 18


def download(
    url: str, path: str | os.PathLike[str], *, progress: bool = True, attempts: int = 5, pause: float = 2.0
) -> Path:
    """Fetch ``url`` to ``path`` and return it; a file that is there already is left as it is.

    Parameters
    ----------
    url, path
        From where to where.
    progress
        Show a bar.
    attempts
        As many times in a row may the connection break without a byte of progress.
    pause
        Seconds to wait before the second attempt, doubled with each one.

    Raises
    ------
    UserError
        If the publisher does not have the file, cannot be reached, or the disk is full. What has arrived stays in
        ``FILE.part`` for the next run.
    """
    target = Path(path)
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    failures = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            before = _size(part)
            try:
                if _fetch(url, part, target, progress):
                    os.replace(part, target)
                    _note(part).unlink(missing_ok=True)
                    return target
                reason = "the connection was closed early"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise UserError(
                        f"{url} answers {error.code} {error.reason}; check the category and --year"
                    ) from error
                reason = f"the server answers {error.code} {error.reason}"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if _size(part) > before else failures + 1
            if failures >= attempts:
                raise UserError(
                    f"could not fetch {url} ({reason}); {_size(part):,} bytes are kept in {part}, run the command "
                    "again to go on from there"
                )
            time.sleep(pause * 2 ** max(failures - 1, 0))
    except OSError as error:
        raise UserError(
            f"could not write {part}: {error.strerror or error}; free some space and run the command again to go on"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(part: Path) -> Path:
    """File beside the part that tells which version of the remote file it is of."""
    return part.with_name(part.name + ".json")


def _fetch(url: str, part: Path, target: Path, progress: bool) -> bool:
    """One connection; return whether the file is whole."""
    have = _size(part)
    headers = {"User-Agent": f"recbole_unisrec/{__version__}", "Accept-Encoding": "identity"}
    note: dict[str, Any] = {}
    if have:
        try:
            note = json.loads(_note(part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            note = {}
        if note.get("url") == url and note.get("version"):
            headers |= {"Range": f"bytes={have}-", "If-Range": note["version"]}
        else:
            have = 0  # nothing says that the part is of this file
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file, or longer
            if note.get("size") == have:
                return True
            part.unlink()
            return False
        raise
    with response:
        if response.status == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
            if start != str(have):
                raise http.client.HTTPException(f"asked for byte {have}, got byte {start or '?'}")
            whole = response.headers["Content-Range"].rpartition("/")[2]
            size = int(whole) if whole.isdigit() else None
        else:
            have = 0
            length = response.headers.get("Content-Length")
            size = int(length) if length else None
        if size is not None:
            _check_space(part, size - have)
        etag = response.headers.get("ETag")
        # a weak ETag (W/"...") does not promise equal bytes, so it cannot guard a resume
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        _note(part).write_text(json.dumps({"url": url, "version": version, "size": size}), encoding="utf-8")
        bar = tqdm(
            total=size, initial=have, desc=target.name, unit="B", unit_scale=True, disable=not progress, file=sys.stderr
        )
        with open(part, "ab" if have else "wb") as out, bar:
            while piece := response.read(PIECE):
                out.write(piece)
                bar.update(len(piece))
    got = _size(part)
    if size is not None and got > size:
        part.unlink()
        raise http.client.HTTPException(f"{got:,} bytes came where {size:,} were announced")
    return size is None or got == size


def _check_space(part: Path, need: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if need > free:
        raise UserError(
            f"{part.parent} has {free:,} bytes free and {need:,} are needed; free some space or choose another folder"
        )
