"""MovieLens-100k in the form of every other dataset here, from the copy that RecBole brings along.

The rows of `ml-100k.inter` are grouped by user, users in the order of their first row in the source, and sorted by
time within the user. Ratings of the same second keep the order of the source file, so that two runs write the same
bytes. There is no k-core: every user and item with a rating is kept, an item without one is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_tools import __version__
from dataset_tools.common import UserError, run_cli

NAME = "ml-100k"


def find_source() -> Path:
    """The folder of MovieLens-100k within RecBole, found without importing RecBole.

    Raises
    ------
    UserError
        If RecBole is not installed, or brings no such folder.
    """
    spec = importlib.util.find_spec("recbole")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "dataset_example" / NAME
        if folder.is_dir():
            return folder
    raise UserError(
        f"RecBole's copy of {NAME} was not found; install RecBole (pip install recbole), or give a folder with "
        f"{NAME}.inter and {NAME}.item by --source"
    )


def _read_table(path: Path, columns: tuple[str, ...]) -> list[list[str]]:
    """The named columns of a RecBole atomic file, row by row in file order."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder that holds it by --source") from error
    fields = [field.split(":")[0] for field in lines[0].rstrip("\r").split("\t")]
    missing = [column for column in columns if column not in fields]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; its header holds: {', '.join(fields)}")
    at = [fields.index(column) for column in columns]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(fields):
            raise UserError(f"{path} line {number} has {len(cells)} columns, the header {len(fields)}; mend it")
        rows.append([cells[i] for i in at])
    return rows


def _time(value: str, path: Path) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"{path} holds the time {value!r}, which is no number; mend or remove that row") from error


def _text(title: str, year: str, genres: str) -> str:
    """Title, year and genres, each closed by a full stop as in the texts of the other datasets."""
    parts = (part.strip().rstrip(".").strip() for part in (title, year, genres))
    return " ".join(f"{part}." for part in parts if part) or "."


def _checksum(path: Path) -> dict[str, object]:
    return {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def prepare_ml100k(out: Path, source: Path | None = None, overwrite: bool = False) -> Path:
    """Write ``out/ml-100k`` from RecBole's copy of MovieLens-100k.

    Parameters
    ----------
    out
        The folder of datasets.
    source
        A folder with ``ml-100k.inter`` (user_id, item_id, timestamp, ...) and ``ml-100k.item`` (item_id, movie_title,
        release_year, class); None takes the one that RecBole brings.
    overwrite
        Replace an existing folder, once the new one is whole.

    Returns
    -------
    Path
        The new folder, with .inter, .item, .text, .user2index, .item2index and .json.

    Raises
    ------
    UserError
        If the source is missing or broken, a rated item is not in the item file, or the folder exists and `overwrite`
        is not set. A failed run leaves an existing folder as it was.
    """
    folder = Path(out) / NAME
    source = find_source() if source is None else Path(source)
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists; add --overwrite to replace it, or choose another --out")
    inter_path, item_path = source / f"{NAME}.inter", source / f"{NAME}.item"
    rows = _read_table(inter_path, ("user_id", "item_id", "timestamp"))
    items = _read_table(item_path, ("item_id", "movie_title", "release_year", "class"))
    if not rows:
        raise UserError(f"{inter_path} holds no interactions")

    by_user: dict[str, list[tuple[float, str, str]]] = {}
    for user, item, time in rows:
        by_user.setdefault(user, []).append((_time(time, inter_path), time, item))
    for history in by_user.values():
        history.sort(key=lambda row: row[0])  # stable: a tie keeps the order of the file
    user2index = {user: i for i, user in enumerate(by_user)}
    item2index: dict[str, int] = {}
    for history in by_user.values():
        for _, _, item in history:
            item2index.setdefault(item, len(item2index))
    texts: dict[str, str] = {}
    for item, *parts in items:
        texts.setdefault(item, _text(*parts))
    unknown = [item for item in item2index if item not in texts]
    if unknown:
        raise UserError(f"{len(unknown)} rated items are not in {item_path}, first {unknown[0]!r}; add them")

    item_lines = "item_id:token\ttext:token_seq\n" + "".join(f"{item}\t{texts[item]}\n" for item in item2index)
    provenance = {
        "name": NAME,
        "sources": {path.name: _checksum(path) for path in (inter_path, item_path)},
        "counts": {
            "raw": {"interactions": len(rows), "items": len(texts)},
            "final": {"interactions": len(rows), "users": len(user2index), "items": len(item2index)},
        },
        "order": "by user, then time, then the order of the source file",
        "tool_version": __version__,
    }
    files = {
        "inter": "user_id:token\titem_id:token\ttimestamp:float\n"
        + "".join(f"{user}\t{item}\t{time}\n" for user, history in by_user.items() for _, time, item in history),
        "item": item_lines,
        "text": item_lines,
        "user2index": "".join(f"{user}\t{i}\n" for user, i in user2index.items()),
        "item2index": "".join(f"{item}\t{i}\n" for item, i in item2index.items()),
        "json": json.dumps(provenance, indent=2) + "\n",
    }
    with replace_folder(folder) as fresh:
        for suffix, text in files.items():
            (fresh / f"{NAME}.{suffix}").write_text(text, encoding="utf-8", newline="\n")
    return folder


@contextmanager
def replace_folder(folder: Path, hint: str = "choose another --out") -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place on success and goes on failure.

    Raises
    ------
    UserError
        If the place cannot be written; what was there stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}; {hint}") from error
    old = fresh.with_suffix(".old")
    try:
        yield fresh
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o777 & ~umask)
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise UserError(f"could not write {folder}: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_tools.movielens",
        description="Write MovieLens-100k as OUT/ml-100k, from the copy that comes with RecBole: interactions sorted "
        "by time within each user, and a text for each movie (title, year, genres). No download.",
        epilog="example:\n  python -m dataset_tools.movielens --out dataset/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("dataset"), help="folder of datasets (default: dataset/)")
    parser.add_argument("--source", type=Path, help="folder with ml-100k.inter and ml-100k.item (default: RecBole's)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT/ml-100k")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    folder = prepare_ml100k(args.out, args.source, args.overwrite)
    counts = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))["counts"]["final"]
    print(f"{folder}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))


if __name__ == "__main__":
    sys.exit(run_cli(main))
