"""Your own shop to RecBole atomic files, in one command.

python -m dataset_tools.custom --interactions orders.csv --items products.csv --name myshop --out dataset
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.arguments import add_table_arguments
from dataset_tools.common import UserError, run_cli
from dataset_tools.kinds import Kind
from dataset_tools.shops import layouts

if TYPE_CHECKING:
    from dataset_tools.pipeline import Dataset
    from dataset_tools.shops.choose import Wishes
    from dataset_tools.shops.orders import Reading
    from dataset_tools.sources import BadLines, Source


def build(
    interactions: Source,
    items: Source | None,
    *,
    layout: layouts.Layout,
    wishes: Wishes,
    reading: Reading,
    id_match: str = "exact",
    user_k: int = 5,
    item_k: int = 5,
    shuffle_ties: int | None = None,
    bad: BadLines | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """Run the pipeline on two tables.

    Parameters
    ----------
    interactions, items
        Tables of csv, tsv, parquet, jsonl or xlsx. Without ``items`` the interactions name the items.
    layout
        Where columns may stand, see `dataset_tools.shops.layouts`.
    wishes
        Columns that are named; the others are guessed.
    reading
        How the tables are written, and what is left out.
    id_match
        When an id of the orders means one of the products: ``exact``, ``number`` or ``caseless``.
    user_k, item_k
        Interactions that a user and an item need.
    shuffle_ties
        Seed for a random order of a sequence's equal times; None keeps the order of the file.
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
    from dataset_tools.cleaning import join_fields
    from dataset_tools.interactions import Collector
    from dataset_tools.left_out import LeftOut
    from dataset_tools.shops import products
    from dataset_tools.shops.choose import choose_columns
    from dataset_tools.shops.orders import read_orders
    from dataset_tools.shops.returns import rows_that_count
    from dataset_tools.sources import BadLines, peek
    from dataset_tools.writer import provenance

    bad = bad or BadLines()
    head = peek(interactions, **reading.options())
    item_head = peek(items, **reading.options()) if items else None
    columns, item_columns = choose_columns(interactions, head, items, item_head, layout, wishes)
    collector, left = Collector(), LeftOut()
    texts: dict[int, str] = {}
    back: list[pl.DataFrame] = []
    quantities: list[np.ndarray] = []
    orders: list[np.ndarray] = []
    for frame in read_orders(interactions, columns, reading, left, bad, back):
        quantities.append(frame["quantity"].to_numpy().astype(np.float32))
        orders.append(frame["order"].to_numpy().astype(np.uint32))
        ids = products.canonical(frame["item"], id_match)
        codes = collector.append(frame["user"], ids, frame["_time"].to_numpy(), frame["rating"].to_numpy())
        if items is None:
            for code, title in zip(codes.tolist(), frame["title"].to_list(), strict=True):
                if title and code not in texts:
                    texts[code] = join_fields([title])
    if not len(collector) and any(left.reasons.values()):
        why = max(left.reasons, key=lambda reason: left.reasons[reason])
        raise UserError(
            f"no row of {interactions.path.name} is left: of {left.rows:,} rows {left.reasons[why]:,} are {why}; "
            "are these the right columns (see --help)?"
        )
    rows = rows_that_count(interactions, collector, back, quantities, orders, id_match, left)
    data = collector.interactions(interactions.path, rows)
    data.steps[:0] = left.steps(interactions, bad)
    names: dict[int, str] = {}
    counts: dict[str, int] = {}
    if items is not None and item_columns is not None and item_head is not None:
        known, texts, names, counts = products.collect_texts(
            items, item_columns, reading.options(), data.item_ids, id_match, bad
        )
        table, column, first = items, item_columns, item_head

        def all_ids() -> pl.Series:
            ids = [
                f[column.item] for f in products.read_products(table, column, reading.options(), BadLines(1 << 62, 0))
            ]
            return pl.concat(ids).unique(maintain_order=True) if ids else pl.Series([], dtype=pl.String)

        def explain() -> str:
            ids = data.item_ids.decode(pl.Series(data.items).unique(maintain_order=True).to_numpy())
            return products.why_nothing_meets(interactions, ids, table, first, column.item, all_ids())

        products.refuse_if_nothing_meets(known, data.items, explain, len(data))
        before = len(data)
        pipeline.keep_items(data, known, "a row in the item table")
        if before - len(data) > 0.2 * before:
            items.note(f"{before - len(data):,} of {before:,} interactions are with items that have no row there")
    else:
        texts = {code: texts.get(code, "") for code in range(len(data.item_ids))}
    dataset = pipeline.k_core_dataset(data, texts, user_k, item_k, shuffle_ties)
    if id_match != "exact" and names:
        codes = data.item_ids.encode(dataset.item_ids).tolist()
        dataset.item_ids = pl.Series([names[code] for code in codes], dtype=pl.String)
    settings = {
        "columns": {
            "user": columns.user,
            "item": columns.items[0] if len(columns.items) == 1 else columns.items,
            "time": columns.time,
            "rating": columns.rating,
            "order": columns.order,
            "quantity": columns.quantity,
            "status": columns.status,
            "item_id": item_columns.item if item_columns else None,
            "text": item_columns.texts if item_columns else [columns.title],
        },
        "drops_returns": reading.drops_returns,
        "id_match": id_match,
        "user_k": user_k,
        "item_k": item_k,
        "shuffle_ties": shuffle_ties,
    }
    sources = [interactions, *([items] if items else [])]
    return dataset, provenance("custom", sources, settings, data, bad, left_out=left.reasons, metadata=counts)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    source = parser.add_argument_group("input")
    source.add_argument("--interactions", type=Path, required=True, metavar="FILE", help="table of interactions")
    source.add_argument(
        "--items", type=Path, metavar="FILE", help="table of items (default: the interactions name their items)"
    )
    parser.add_argument("--name", required=True, help="name of the dataset")
    add_shop_options(source)
    add_table_arguments(parser.add_argument_group("how the tables are written (found out, and said, without these)"))


def add_shop_options(source: argparse._ActionsContainer, drops: bool = False) -> None:
    """Add the flags that say which column is what, and what is left out.

    Parameters
    ----------
    drops
        Whether returns are left out without a flag, for the help.
    """
    source.add_argument(
        "--preset",
        choices=(*layouts.PRESETS, "none"),
        help="export of a shop system (default: told by its columns; none: no system)",
    )
    source.add_argument("--user_col", help="column of the user (default: guessed, and said)")
    source.add_argument("--item_col", help="column of the item, or of all items of an order (default: guessed)")
    source.add_argument("--time_col", help="column of the time (default: guessed)")
    source.add_argument("--no_time", action="store_true", help="there is no time; the file is in order")
    source.add_argument("--time_format", help="such as '%%d.%%m.%%Y %%H:%%M' (default: the usual ways)")
    source.add_argument("--rating_col", help="column of a rating, which tells repeated rows apart (default: none)")
    source.add_argument(
        "--order_col", help="column of the order, whose user, time and status hold for all its rows (default: guessed)"
    )
    source.add_argument("--list_separator", help="between the ids in a cell of --item_col; none: a cell is one id")
    source.add_argument("--item_id_col", help="column of the item in the item table (default: guessed)")
    source.add_argument(
        "--id_match", choices=("exact", "number", "caseless"), default="exact",
        help="when two ids are the same item; number: 007 is 7 and 7.0 (default: %(default)s)",
    )  # fmt: skip
    source.add_argument(
        "--text_cols", nargs="+", metavar="COL", help="text columns, in order (default: title, category, brand)"
    )
    drop = source.add_mutually_exclusive_group()
    drop.add_argument(
        "--drop_returns", action="store_true", default=None,
        help="leave out cancelled orders, returns (quantity below 1), and purchases of which every piece came back "
        + ("(default)" if drops else "(default with a preset)"),
    )  # fmt: skip
    drop.add_argument(
        "--keep_returns", action="store_false", dest="drop_returns", default=None, help="count them as purchases"
    )
    source.add_argument("--quantity_col", help="column of the quantity, or none (default: guessed)")
    source.add_argument("--status_col", help="column of the order's status, or none (default: guessed)")
    source.add_argument(
        "--drop_status",
        nargs="+",
        metavar="WORD",
        help="statuses of cancelled orders (default: cancelled, refunded, ...)",
    )


def shop_options(args: argparse.Namespace, orders: Source) -> dict[str, Any]:
    """``layout``, ``wishes``, ``reading`` and ``id_match`` of `build`, from the flags."""
    from dataset_tools.shops.choose import NONE, Wishes
    from dataset_tools.shops.orders import Reading
    from dataset_tools.sources import peek

    written = {"encoding": args.encoding, "separator": args.separator, "quoted": not args.no_quotes}
    orders.sheets = args.sheet
    preset = args.preset
    if preset is None and (preset := layouts.recognise(peek(orders, **written, rows=1).columns)):
        orders.note(
            f"its columns are those of {preset}'s order export: read by --preset {preset} (none says otherwise)"
        )
    layout = layouts.ANY if preset in (None, NONE) else layouts.PRESETS[preset]
    drops = layout.drops_returns if args.drop_returns is None else args.drop_returns
    return {
        "layout": layout,
        "wishes": Wishes(
            user=args.user_col,
            item=args.item_col,
            time=NONE if args.no_time else args.time_col,
            order=args.order_col,
            quantity=args.quantity_col,
            status=args.status_col,
            rating=args.rating_col,
            product=args.item_id_col,
            texts=tuple(args.text_cols) if args.text_cols else None,
            list_separator=args.list_separator,
        ),
        "reading": Reading(
            **written,
            time_format=args.time_format,
            day_first=None if args.date_order is None else args.date_order == "day",
            drops_returns=drops or bool(args.drop_status),
            left_out=tuple(word.lower() for word in args.drop_status or layout.left_out),
            guests=layout.guests,
        ),
        "id_match": args.id_match,
    }


def _read(args: argparse.Namespace, show: bool, bad: BadLines) -> tuple[Dataset, dict[str, Any]]:
    from dataset_tools.sources import Source

    orders = Source(args.interactions, show, args.quiet)
    items = Source(args.items, show, args.quiet) if args.items else None
    limits = {"user_k": args.user_k, "item_k": args.item_k, "shuffle_ties": args.shuffle_ties}
    return build(orders, items, **shop_options(args, orders), **limits, bad=bad)


KIND = Kind(
    tool="custom",
    usage="--interactions FILE --items FILE --name NAME",
    description=(
        "Turn your own data into a dataset for RecBole and UniSRec. "
        "It takes two tables (csv, tsv, parquet, jsonl or xlsx; csv, tsv and jsonl also as .gz): who took what "
        "when, and what the items are called. Columns, separator, encoding and the order of dates are found out and "
        "said, and each has a flag. Repeated rows count once, items without a row in the item table "
        "go, then users and items with too few interactions; each user is sorted by time (ties keep the order "
        "of the file). Whatever is left out is counted."
    ),
    epilog=(
        "examples:\n"
        "  python -m dataset_tools.custom --interactions orders.csv --items products.csv --name myshop\n"
        "  python -m dataset_tools.custom --interactions orders_export.csv --items products_export.csv --name myshop \\\n"
        "      --preset shopify\n"
        "  python -m dataset_tools.custom --interactions orders.parquet --items products.jsonl --name myshop \\\n"
        "      --user_col customer --item_col sku --time_col ordered_at --text_cols name category brand\n"
        "  python -m dataset_tools.custom --interactions clicks.tsv --items items.tsv --name clicks --no_time \\\n"
        "      --user_k 2 --item_k 2"
    ),
    options=add_options,
    read=_read,
)
main = KIND.main

if __name__ == "__main__":
    sys.exit(run_cli(main))
