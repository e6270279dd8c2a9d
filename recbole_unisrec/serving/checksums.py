"""SHA-256 of the files of a saved model, so that a flipped byte is an error and no other recommendation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

AT_A_TIME = 2  # files read at once; hashing leaves Python's lock alone
SEAL = "checksum"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files by their names."""
    wanted = list(paths)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip((path.name for path in wanted), pool.map(digest, wanted), strict=True))


def _seal_of(config: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in config.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with a checksum of itself."""
    return {**config, SEAL: _seal_of(config)}


def is_whole(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is as `sealed` left it; true for one of before the checksums."""
    return SEAL not in config or config[SEAL] == _seal_of(config)
