"""What is done already: the file ``shop.json`` of a shop's folder, and the lock that keeps two runs apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_tools.common import UserError, write_text

FILE = "shop.json"
VERSION = 1


def fingerprint(files: Sequence[Path], options: dict[str, Any]) -> str:
    """SHA-256 of the files' bytes and of the options that decide what is made of them.

    Raises
    ------
    UserError
        If a file is missing.
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    for path in files:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


class State:
    """The steps that are done and what came of them, whole on disk after each.

    Attributes
    ----------
    folder
        Of the shop.
    values
        ``options`` of the first run, ``steps`` (name to result), ``updates`` (one entry each).
    """

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        self.folder, self.values = folder, values

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """What is known of a shop's folder, or None if it is none.

        Raises
        ------
        UserError
            If its file is damaged, or of a later version.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["version"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}); begin anew with --restart") from error
        if version != VERSION:
            raise UserError(f"{path} is of version {version}, this program reads {VERSION}; begin anew with --restart")
        return cls(folder, values)

    @classmethod
    def new(cls, folder: Path, mark: str, options: dict[str, Any]) -> State:
        """A shop of which nothing is done yet.

        Raises
        ------
        UserError
            If the folder holds something else.
        """
        if folder.exists() and (not folder.is_dir() or any(p.name not in (FILE, "lock") for p in folder.iterdir())):
            known = (folder / FILE).is_file()
            if not known:
                raise UserError(f"{folder} holds something else; give another folder by --out")
        state = cls(folder, {"version": VERSION, "mark": mark, "options": options, "steps": {}, "updates": []})
        state.write()
        return state

    def write(self) -> None:
        """Keep it, whole or not at all."""
        write_text(self.folder / FILE, json.dumps(self.values, indent=1, ensure_ascii=False, default=str) + "\n")

    def done(self, step: str) -> Any:
        """What came of a step, or None if it is not done."""
        return self.values["steps"].get(step)

    def finish(self, step: str, result: Any) -> Any:
        """Note a step as done."""
        self.values["steps"][step] = result
        self.write()
        return result


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep other runs on the same shop out.

    Raises
    ------
    UserError
        If one is under way.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"another start or update of {folder} is under way; wait for it") from error
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose a folder you may write to") from error
    try:
        yield
    finally:
        lock.release()
