"""Your own shop to RecBole atomic files, in one command.

python -m dataset_tools.custom --interactions orders.csv --items products.csv --name myshop --out dataset
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.arguments import add_arguments, new_parser
from dataset_tools.common import run_cli

if TYPE_CHECKING:
    from dataset_tools.pipeline import Dataset
    from dataset_tools.sources import BadLines, Source


def build(
    interactions: Source,
    items: Source,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = "timestamp",
    rating_column: str | None = None,
    item_id_column: str | None = None,
    text_columns: tuple[str, ...] = ("title",),
    time_format: str | None = None,
    user_k: int = 5,
    item_k: int = 5,
    shuffle_ties: int | None = None,
    encoding: str = "utf-8",
    separator: str | None = None,
    bad: BadLines | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """Run the pipeline on two tables.

    Parameters
    ----------
    interactions, items
        Tables of csv, tsv, parquet, jsonl or xlsx.
    user_column, item_column, time_column, rating_column
        Of the interactions. Without a time column the order of the file is the order in time. A rating only tells
        repeated rows apart.
    item_id_column, text_columns
        Of the items; the texts are joined in this order. ``item_id_column`` None for ``item_column``.
    time_format
        As of ``strptime``; None for numbers and ISO dates.
    user_k, item_k
        Interactions that a user and an item need.
    shuffle_ties
        Seed for a random order of a sequence's equal times; None keeps the order of the file.
    encoding, separator
        Of csv and tsv.
    bad
        Where unreadable rows go.

    Returns
    -------
    dataset
    provenance : dict
        For `dataset_tools.writer.write_dataset`.
    """
    import numpy as np
    import polars as pl

    from dataset_tools import pipeline
    from dataset_tools.sources import ISO_FORMATS, BadLines, keep_rows, read_table, with_times
    from dataset_tools.writer import provenance

    bad = bad or BadLines()
    formats = (time_format,) if time_format else ISO_FORMATS
    collector = pipeline.Collector()
    types: dict[str, Any] = {user_column: pl.String, item_column: pl.String}
    required = {user_column: "given", item_column: "given"}
    if time_column:
        types[time_column] = pl.String
        required[time_column] = "given"
    if rating_column:
        types[rating_column] = pl.Float64
        required[rating_column] = "a number"
    count = 0
    for table in read_table(interactions, types, bad, required=required, encoding=encoding, separator=separator):
        for column in (user_column, item_column):
            missing = pipeline.is_missing_word(table[1][column])
            for row in missing.arg_true().to_list():
                reason = f"{column} is {table[1][column][row]!r}, which RecBole reads as nothing"
                bad.add(interactions.path.name, table[0][row], reason, str(table[1].row(row)))
            if missing.any():
                table = keep_rows(table, ~missing.to_numpy())
        if time_column:
            reason = "is not a time (see --time_format)"
            _, frame = with_times(table, time_column, interactions, bad, formats, reason)
        else:
            frame = table[1].with_columns((pl.int_range(pl.len()).cast(pl.Float64) + count).alias("_time"))
        count += len(frame)
        ratings = frame[rating_column].to_numpy() if rating_column else np.zeros(len(frame))
        collector.append(frame[user_column], frame[item_column], frame["_time"].to_numpy(), ratings)
    data = collector.interactions(interactions.path)

    item_ids = data.item_ids
    item_id = item_id_column or item_column
    known = np.zeros(len(item_ids), dtype=bool)
    texts: dict[int, str] = {}
    records = repeated_records = 0
    seen = pipeline.IdTable()
    item_types = {item_id: pl.String, **dict.fromkeys(text_columns, pl.String)}
    for _, frame in read_table(
        items, item_types, bad, required={item_id: "given"}, encoding=encoding, separator=separator
    ):
        records += len(frame)
        before = len(seen)
        seen.encode(frame[item_id])
        repeated_records += len(frame) - (len(seen) - before)
        codes = item_ids.encode(frame[item_id])
        wanted = np.flatnonzero(codes < len(known)).tolist()
        fields = [frame[name].to_list() for name in text_columns]
        for row in wanted:
            code = int(codes[row])
            if not known[code]:
                known[code] = True
                texts[code] = pipeline.join_fields(field[row] for field in fields)
    known = np.concatenate([known, np.zeros(len(item_ids) - len(known), dtype=bool)])
    pipeline.keep_items(data, known, "a row in the item table")
    dataset = pipeline.k_core_dataset(data, texts, user_k, item_k, shuffle_ties)
    names = {"user": user_column, "item": item_column, "time": time_column, "rating": rating_column}
    names_of_items = {"item_id": item_id, "text": list(text_columns)}
    settings = {
        "columns": {**names, **names_of_items},
        "user_k": user_k,
        "item_k": item_k,
        "shuffle_ties": shuffle_ties,
    }
    counts = {"records": records, "duplicate_records": repeated_records}
    return dataset, provenance("custom", [interactions, items], settings, data, bad, metadata=counts)


def make_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = new_parser(
        "custom",
        "--interactions FILE --items FILE --name NAME",
        description=(
            "Turn your own data into a dataset for RecBole and UniSRec. "
            "It takes two tables (csv, tsv, parquet, jsonl or xlsx; csv, tsv and jsonl also as .gz): who took what "
            "when, and what the items are called. Repeated rows count once, items without a row in the item table "
            "go, then users and items with too few interactions; each user is sorted by time (ties keep the order "
            "of the file)."
        ),
        epilog=(
            "examples:\n"
            "  python -m dataset_tools.custom --interactions orders.csv --items products.csv --name myshop\n"
            "  python -m dataset_tools.custom --interactions orders.parquet --items products.jsonl --name myshop \\\n"
            "      --user_col customer --item_col sku --time_col ordered_at --text_cols name category brand\n"
            "  python -m dataset_tools.custom --interactions clicks.tsv --items items.tsv --name clicks --no_time \\\n"
            "      --user_k 2 --item_k 2"
        ),
    )
    source = parser.add_argument_group("input")
    source.add_argument("--interactions", type=Path, required=True, metavar="FILE", help="table of interactions")
    source.add_argument("--items", type=Path, required=True, metavar="FILE", help="table of items")
    parser.add_argument("--name", required=True, help="name of the dataset")
    source.add_argument("--user_col", default="user_id", help="column of the user (default: %(default)s)")
    source.add_argument("--item_col", default="item_id", help="column of the item (default: %(default)s)")
    source.add_argument("--time_col", default="timestamp", help="column of the time (default: %(default)s)")
    source.add_argument("--no_time", action="store_true", help="there is no time; the file is in order")
    source.add_argument("--time_format", help="such as '%%d.%%m.%%Y %%H:%%M' (default: numbers and ISO dates)")
    source.add_argument("--rating_col", help="column of a rating, which tells repeated rows apart (default: none)")
    source.add_argument("--item_id_col", help="column of the item in the item table (default: as --item_col)")
    source.add_argument(
        "--text_cols", nargs="+", default=["title"], metavar="COL", help="text columns, in order (default: title)"
    )
    source.add_argument("--encoding", default="utf-8", help="of csv and tsv (default: %(default)s)")
    source.add_argument(
        "--separator", type=_character, help="of csv and tsv, such as ';' (default: by the name of the file)"
    )
    add_arguments(parser)
    return parser


def _character(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text.encode()) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one ASCII character")
    return text


def main(arguments: list[str]) -> int:
    """Run the command."""
    args = make_parser().parse_args(arguments)
    from dataset_tools.sources import Source
    from dataset_tools.writer import make_dataset

    make_dataset(
        args,
        args.name,
        lambda show, bad: build(
            Source(args.interactions, show),
            Source(args.items, show),
            user_column=args.user_col,
            item_column=args.item_col,
            time_column=None if args.no_time else args.time_col,
            rating_column=args.rating_col,
            item_id_column=args.item_id_col,
            text_columns=tuple(args.text_cols),
            time_format=args.time_format,
            user_k=args.user_k,
            item_k=args.item_k,
            shuffle_ties=args.shuffle_ties,
            encoding=args.encoding,
            separator=args.separator,
            bad=bad,
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
