"""Flags that dataset commands share, apart from the code that serves them, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from dataset_tools import __version__
from dataset_tools.precision import PRECISIONS

POOLINGS = ("CLS", "Mean", "MeanAll")


def new_parser(tool: str, usage: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of ``python -m dataset_tools.TOOL``; `usage` names what must be given, `epilog` keeps its line ends."""
    parser = argparse.ArgumentParser(
        prog=f"python -m dataset_tools.{tool}",
        usage=" ".join(["%(prog)s", *usage.split(), "[options]"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(description, 100),
        epilog=epilog,
    )
    add_usual(parser)
    return parser


def add_usual(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command has."""
    parser.add_argument(
        "--version", action="version", version=f"recbole_unisrec {__version__}", help="print the version"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_arguments(parser: argparse.ArgumentParser, *, k: int = 5) -> None:
    """Add the flags that every dataset tool has: output, k-core, texts to features."""
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        default=Path("dataset"),
        help="the files go to OUT/NAME (default: %(default)s)",
    )
    output.add_argument(
        "--benchmark_splits", action="store_true", help="also write the authors' NAME.{train,valid,test}.inter"
    )
    output.add_argument("--overwrite", action="store_true", help="replace a dataset of the same name")
    core = parser.add_argument_group("filters")
    core.add_argument("--user_k", type=_natural, default=k, help="interactions a user needs (default: %(default)s)")
    core.add_argument("--item_k", type=_natural, default=k, help="interactions an item needs (default: %(default)s)")
    core.add_argument(
        "--shuffle_ties", type=_natural, metavar="SEED",
        help="put equal times of a user in random order (default: they keep the order of the file)",
    )  # fmt: skip
    core.add_argument(
        "--max_bad_lines", type=_natural, default=1000, help="unreadable lines to skip before giving up (default: 1000)"
    )
    encoder = parser.add_argument_group("text features (or later: python -m dataset_tools.features)")
    encoder.add_argument("--encoder", help="also encode the item texts with it: a hub name, a local path, or minilm")
    encoder.add_argument(
        "--pooling", choices=POOLINGS, help="vector of a text (default: what the encoder's own files say, else CLS)"
    )
    encoder.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="arithmetic of the encoder (default: %(default)s)"
    )
    encoder.add_argument(
        "--word_drop", type=_probability, default=0.0, help="also write features with words dropped (the paper: 0.15)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no table of counts")


def add_table_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the flags that say how a table is written, for every tool that reads tables; all are guessed without them."""
    parser.add_argument("--encoding", help="of csv and tsv, such as cp1252 (default: found out)")
    parser.add_argument("--separator", type=_character, help="of csv and tsv, such as ';' (default: found out)")
    parser.add_argument("--no_quotes", action="store_true", help='in csv and tsv " is a character like any other')
    parser.add_argument(
        "--sheet", nargs="+", metavar="NAME", help="sheets of a workbook (default: all with the header of the first)"
    )
    parser.add_argument(
        "--date_order",
        choices=("day", "month"),
        help="which comes first in dates such as 3/4/2025 (default: found out from all dates of the file)",
    )


def table_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those of `dataset_tools.sources.read_table`, from the flags of `add_table_arguments`."""
    return {"encoding": args.encoding, "separator": args.separator, "quoted": not args.no_quotes}


def _character(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text.encode()) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one ASCII character")
    return text


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability, at least 0 and below 1")
    return value


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
