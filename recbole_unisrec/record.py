"""What a run tells and leaves behind: lines on the console, RecBole's log, and the versions and settings in its JSON."""

from __future__ import annotations

import functools
import io
import logging
import platform
import sys
from importlib import metadata
from typing import Any

from recbole.config import Config
from recbole.utils import init_logger

from recbole_unisrec.errors import UserError

PACKAGES = ("recbole_unisrec", "recbole", "torch", "transformers", "numpy", "pandas", "scipy", "ray")


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def plain(value: Any) -> Any:
    """The same value in types that JSON knows."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def start_logging(config: Config, verbose: bool) -> None:
    """RecBole's logger, with the console kept for our own lines unless `verbose`."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    try:
        init_logger(config)
    except OSError as error:
        raise UserError(
            f"cannot write the log in ./log: {error.strerror}; run from a folder you may write to"
        ) from error
    for handler in root.handlers:
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # RecBole's is that of the locale
        if type(handler) is logging.StreamHandler and not verbose:
            handler.setLevel(logging.ERROR)
        if isinstance(handler, logging.FileHandler):
            handler.handleError = functools.partial(_give_up, handler)  # type: ignore[method-assign]
    logging.getLogger().info(config)


def _give_up(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """The log cannot be written (a full disk): say so once, and go on without it."""
    error = sys.exc_info()[1]
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    logging.getLogger().removeHandler(handler)
    print(f"note: cannot write the log {handler.baseFilename} ({reason}); the run goes on without it", file=sys.stderr)
