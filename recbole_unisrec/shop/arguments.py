"""Options that ``unisrec start`` and ``unisrec update`` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset_tools.arguments import add_table_arguments, add_usual
from dataset_tools.custom import add_shop_options

# options that decide what is made of the files; a run with others begins anew
READING = (
    "preset", "user_col", "item_col", "time_col", "no_time", "time_format", "rating_col", "order_col", "list_separator",
    "item_id_col", "id_match", "text_cols", "drop_returns", "quantity_col", "status_col", "drop_status", "encoding",
    "separator", "no_quotes", "sheet", "date_order",
)  # fmt: skip
LEARNING = ("encoder", "recipe", "epochs", "seed")


def shop_parser(
    name: str, description: str, epilog: str, *, folder: tuple[str, str], products: str, rounds: str
) -> argparse.ArgumentParser:
    """A parser with the options of both commands.

    Parameters
    ----------
    name, description, epilog
        Of the command.
    folder
        The option that names the shop's folder, and its help.
    products, rounds
        What is taken without ``--products`` and ``--epochs``, for the help.
    """
    parser = argparse.ArgumentParser(
        prog=f"unisrec {name}",
        usage=f"%(prog)s --orders FILE [FILE ...] [--products FILE] [{folder[0]} DIR] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=description,
        epilog=epilog,
    )
    parser.add_argument("--orders", type=Path, nargs="+", required=True, metavar="FILE", help="order exports")
    parser.add_argument("--products", type=Path, metavar="FILE", help=f"product export (default: {products})")
    parser.add_argument(
        folder[0],
        type=Path,
        dest="folder",
        default=Path("myshop"),
        metavar="DIR",
        help=f"{folder[1]} (default: myshop)",
    )
    parser.add_argument("--epochs", type=int, help=f"rounds of learning at most (default: {rounds})")
    add_shop_options(parser.add_argument_group("what the columns are (guessed, and said, without these)"), drops=True)
    add_table_arguments(parser.add_argument_group("how the files are written (found out, and said, without these)"))
    parser.add_argument(
        "--max_bad_lines", type=int, default=1000, help="unreadable lines to skip before giving up (default: 1000)"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but the result")
    parser.add_argument("--verbose", action="store_true", help="show RecBole's log too")
    add_usual(parser)
    return parser


def file_names(args: argparse.Namespace) -> list[str]:
    """Names of the files that were given."""
    return [path.name for path in (*args.orders, *([args.products] if args.products else []))]
