"""What every command of the project shares: errors that are one sentence, and files that are whole or absent."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_tools.left_over import TEMPORARY, sweep
from dataset_tools.swap import recover_folder, swap

FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


class UserError(Exception):
    """A mistake that the user can mend. The message is one sentence: what is wrong, where, and what to do."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure.

    What a killed writer of this path left beside it goes after a day (`left_over.sweep`).

    Raises
    ------
    UserError
        If the folder cannot be written or the disk is full. Whatever lay at ``path`` is left as it was.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, f".{target.name}.")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=TEMPORARY, dir=target.parent)
    except OSError as error:
        raise UserError(
            f"cannot write to {target.parent}: {error.strerror}; choose a folder you may write to"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(
            f"could not write {target}: {error.strerror or error}; free some space or check permissions, "
            "nothing was changed"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; put it in its place on success, remove it on failure.

    Parameters
    ----------
    folder
        What lies there is replaced, once the new one is whole.
    check
        Called before the work and again before the swap; raises if ``folder`` must not be replaced.

    Raises
    ------
    UserError
        If the disk is full or the place cannot be written. What was there stays.
    """
    recover_folder(folder)
    check()
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent, f".{folder.name}.")
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=TEMPORARY, dir=folder.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb") as written:
                os.fsync(written.fileno())
        check()
        swap(temporary, folder)
    except OSError as error:
        raise UserError(
            f"could not write {folder}: {error.strerror or error}; free some space or check permissions, "
            "nothing was changed"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: str | os.PathLike[str], hint: str) -> None:
    """Raise `UserError` before long work rather than after it, if no file can be written into a folder; it is made.

    Parameters
    ----------
    folder
        May lie in folders that are not there yet.
    hint
        What to do if not: the end of the sentence.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it has no name that another process could trip over
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; {hint}") from error


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with newline line ends, whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_properties(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a property file of RecBole (YAML, in which 1e-3 is a number); no code in it is run.

    Raises
    ------
    UserError
        If it is missing, or is not a YAML mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1 takes 1e-3 for a string."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the property file {path}: {getattr(error, 'strerror', error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path} is no YAML mapping of settings; write lines like `learning_rate: 0.001`")
    return found


def _any_locale(arguments: list[str]) -> None:
    """Let output hold letters that the terminal's encoding lacks, and refuse arguments that it could not decode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"the argument {argument!r} is not readable in the encoding of this locale ({sys.getfilesystemencoding()}); "
                "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            ) from error


def run_cli(command: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> int:
    """Run a command: a `UserError` becomes one line on stderr and status 1 (a traceback with ``--debug``).

    SIGTERM ends it as Ctrl-C does, so that temporary files go; with status 143.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    usual = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    try:
        if usual:
            signal.signal(signal.SIGTERM, _leave)
        _any_locale(arguments)
        return command([a for a in arguments if a != "--debug"]) or 0
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder without permission: wherever it happens
        if debug:
            raise
        where = f" {error.filename}" if error.filename else " a file"
        reason = error.strerror or error
        print(f"error: cannot read or write{where}: {reason}; free some space or check permissions", file=sys.stderr)
        return 1
    finally:
        if usual:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: object) -> None:
    """What SIGTERM does within a command."""
    raise SystemExit(128 + number)
