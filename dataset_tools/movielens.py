"""MovieLens-100k in the form of every other dataset here, from the copy that RecBole brings along.

The rows of `ml-100k.inter` are grouped by user, users in the order of their first row in the source, and sorted by
time within the user. Ratings of the same second keep the order of the source file, so that two runs write the same
bytes. There is no k-core: every user and item with a rating is kept, an item without one is left out.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.arguments import new_parser
from dataset_tools.common import UserError, run_cli

if TYPE_CHECKING:
    import polars as pl

    from dataset_tools.sources import Source

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


def _text(parts: Iterable[str | None]) -> str:
    """Title, year and genres, each closed by a full stop as in the texts of the other datasets."""
    stripped = ((part or "").strip().rstrip(".").strip() for part in parts)
    return " ".join(f"{part}." for part in stripped if part) or "."


def _read_atomic(source: Source, columns: tuple[str, ...], numeric: str = "") -> pl.DataFrame:
    """The named columns of a RecBole atomic file; the first bad line ends the run."""
    import polars as pl

    from dataset_tools.sources import BadLines, read_delimited

    with open(source.path, encoding="utf-8", errors="replace") as file:
        fields = {field.split(":")[0]: field for field in file.readline().rstrip("\r\n").split("\t")}
    names = {fields.get(column, column): column for column in columns}
    types = {full: pl.Float64 if column == numeric else pl.String for full, column in names.items()}
    required = {fields.get(numeric, numeric): "a number"} if numeric else {}
    frames = [
        frame.rename(names)
        for _, frame in read_delimited(
            source, types, BadLines(0), header=True, required=required, separator="\t", quoted=False
        )
    ]
    if not any(map(len, frames)):
        raise UserError(f"{source.path} holds no rows; give another folder by --source")
    return pl.concat(frames)


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
        The new folder; see `dataset_tools.writer` for its files.

    Raises
    ------
    UserError
        If the source is missing or broken, a rated item is not in the item file, or the folder exists and `overwrite`
        is not set. A failed run leaves an existing folder as it was.
    """
    from dataset_tools import pipeline
    from dataset_tools.ids import IdTable
    from dataset_tools.interactions import Interactions, whole_times
    from dataset_tools.sources import Source
    from dataset_tools.writer import check_target, write_dataset

    check_target(Path(out) / NAME, NAME, overwrite)
    source = find_source() if source is None else Path(source)
    ratings, movies = Source(source / f"{NAME}.inter"), Source(source / f"{NAME}.item")
    rows = _read_atomic(ratings, ("user_id", "item_id", "timestamp"), numeric="timestamp")
    items = _read_atomic(movies, ("item_id", "movie_title", "release_year", "class")).unique(
        "item_id", keep="first", maintain_order=True
    )
    texts = {item: _text(parts) for item, *parts in items.iter_rows()}
    unknown = rows.filter(~rows["item_id"].is_in(list(texts)))["item_id"].unique(maintain_order=True)
    if len(unknown):
        raise UserError(f"{len(unknown)} rated items are not in {movies.path}, first {unknown[0]!r}; add them")
    user_ids, item_ids = IdTable(), IdTable()
    data = Interactions(
        users=user_ids.encode(rows["user_id"]),
        items=item_ids.encode(rows["item_id"]),
        times=whole_times(rows["timestamp"].to_numpy()),
        ratings=None,
        user_ids=user_ids,
        item_ids=item_ids,
    )
    data.count("read")
    dataset = pipeline.make_sequences(data)
    dataset.texts = [texts[item] for item in dataset.item_ids]
    provenance = {"sources": [ratings.record(), movies.record()], "source_kind": "MovieLens"}
    return write_dataset(out, NAME, dataset, provenance=provenance, overwrite=overwrite)


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    parser = new_parser(
        "movielens",
        "",
        description="Write MovieLens-100k as OUT/ml-100k, from the copy that comes with RecBole: interactions sorted "
        "by time within each user, and a text for each movie (title, year, genres). No download.",
        epilog="example:\n  python -m dataset_tools.movielens --out dataset/",
    )
    parser.add_argument("--out", type=Path, default=Path("dataset"), help="folder of datasets (default: dataset/)")
    parser.add_argument("--source", type=Path, help="folder with ml-100k.inter and ml-100k.item (default: RecBole's)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT/ml-100k")
    args = parser.parse_args(arguments)
    folder = prepare_ml100k(args.out, args.source, args.overwrite)
    counts = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))["counts"]
    print(f"{folder}: {counts['interactions']} interactions, {counts['users']} users, {counts['items']} items")


if __name__ == "__main__":
    sys.exit(run_cli(main))
