"""All runs of a dataset in one file, small enough for a repository, from which every table and plot can be made again."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import atomic_path
from recbole_unisrec.errors import UserError
from recbole_unisrec.leaderboard.keys import ELSEWHERE
from recbole_unisrec.leaderboard.runs import Run

ENDING = ".runs.zip"
FIELDS = [field.name for field in fields(Run)]


@dataclass(frozen=True)
class StoredRun:
    """A finished run, wherever it lies.

    Attributes
    ----------
    run
        What came out.
    where
        Its file, for messages.
    read
        Reads whose each item to find is, [P] sorted, and its rank, [P].
    of
        Digest of the users where it is known without reading.
    """

    run: Run
    where: str
    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    of: str = ""

    @cached_property
    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Whose each item to find is, [P], and its rank, [P]."""
        return self.read()

    @cached_property
    def users(self) -> str:
        """Digest of the users; runs can be compared where it is the same."""
        return self.of or digest_of(self.ranks[0])


def digest_of(users: np.ndarray) -> str:
    """Digest of user tokens in their order."""
    return hashlib.sha256("\n".join(users.astype(str)).encode()).hexdigest()[:16]


def run_of(entry: dict[str, Any]) -> Run:
    """A run from its JSON; what other versions wrote beside it is passed over.

    Raises
    ------
    TypeError
        If a field is missing.
    """
    return Run(**{name: entry[name] for name in FIELDS if name in entry})


def write_archive(stored: Sequence[StoredRun], target: Path) -> None:
    """Put runs into one file, whole or not at all; equal runs give equal files.

    Ranks beyond the largest cut-off are stored as one beyond it, so every metric stays as it is. User tokens, paths and
    what the machine was are left out.

    Raises
    ------
    UserError
        If the file cannot be written, or the ranks of a run cannot be read.
    """
    columns: dict[str, list[np.ndarray]] = defaultdict(list)  # ranks by digest of the users
    whose: dict[str, np.ndarray] = {}
    entries = []
    for one in stored:
        users, ranks = one.ranks
        whose.setdefault(one.users, np.unique(users, return_inverse=True)[1].astype(np.int32))
        beyond = max(int(name.partition("@")[2]) for name in one.run.test) + 1
        config = {k: v for k, v in one.run.config.items() if k not in ELSEWHERE and v is not None}
        if one.run.config.get("pretrained"):
            config["pretrained"] = "/".join(Path(one.run.config["pretrained"]).parts[-2:])
        place = {"users": one.users, "place": len(columns[one.users])}
        entries.append({**asdict(one.run), "config": config, **place})
        columns[one.users].append(np.minimum(ranks, beyond).astype(np.uint8 if beyond < 256 else np.int32))
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as file:
        _put(file, "runs.json", json.dumps(entries).encode())
        for digest, ranks_of_runs in columns.items():
            _put(file, f"{digest}.users.npy", _bytes_of(whose[digest]))
            # [P, runs]: the ranks of one user are alike, and pack better
            _put(file, f"{digest}.ranks.npy", _bytes_of(np.stack(ranks_of_runs, axis=1)))


def _put(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_LZMA)  # a `ZipInfo` by itself has no time of today


def _bytes_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def read_archive(path: Path) -> list[StoredRun]:
    """The runs that `write_archive` put into a file.

    Raises
    ------
    UserError
        If it is damaged; of ranks, when they are asked for.
    """
    arrays: dict[str, np.ndarray] = {}

    def array(name: str) -> np.ndarray:
        if name not in arrays:
            with _opened(path) as file:
                arrays[name] = np.load(io.BytesIO(file.read(name)), allow_pickle=False)
        return arrays[name]

    def reader(digest: str, place: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        return lambda: (array(f"{digest}.users.npy"), array(f"{digest}.ranks.npy")[:, place])

    with _opened(path) as file:
        return [
            StoredRun(run_of(entry), f"{path}, {entry['row']}", reader(entry["users"], entry["place"]), entry["users"])
            for entry in json.loads(file.read("runs.json"))
        ]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise UserError(f"cannot read {path} ({error}); make it again from the runs") from error
