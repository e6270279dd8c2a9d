"""Online Retail (UCI, Kaggle) to RecBole atomic files: a sequence is an invoice, as in the UniSRec paper.

python -m dataset_tools.online_retail --raw data.csv --out dataset
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.arguments import add_arguments, new_parser
from dataset_tools.common import run_cli

if TYPE_CHECKING:
    from dataset_tools.pipeline import Dataset
    from dataset_tools.sources import BadLines, Source

# products have five digits and at most a few letters; the rest is postage, fees, samples, vouchers
PRODUCT_CODE = r"^\d{5}"


def description_text(description: str) -> str:
    """Text of an item.

    >>> description_text("  WHITE METAL LANTERN ")
    'white metal lantern.'
    """
    return re.sub(r"[\t\r\n\x00\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+", " ", description).strip().lower() + "."


def build(
    source: Source,
    *,
    sequence: str = "invoice",
    drop_cancelled: bool = False,
    drop_non_products: bool = False,
    user_k: int = 5,
    item_k: int = 5,
    shuffle_ties: int | None = None,
    encoding: str | None = None,
    bad: BadLines | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """Run the pipeline on the dump.

    Parameters
    ----------
    source
        The csv, xlsx or parquet file.
    sequence
        ``invoice`` (the paper's) or ``customer``; rows without a customer are left out of the latter.
    drop_cancelled
        Leave out invoices whose number starts with C.
    drop_non_products
        Leave out codes that are no products, such as POST, D, M.
    user_k, item_k
        Rows that a sequence and an item need.
    shuffle_ties
        Seed for a random order of a sequence's equal times; None keeps the order of the file.
    encoding
        Of a csv; None to guess it (UTF-8 if all of it is valid, else Windows-1252).
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
    from dataset_tools.sources import BadLines, read_table, with_times
    from dataset_tools.writer import provenance

    bad = bad or BadLines()
    collector = pipeline.Collector()
    texts: dict[int, str] = {}
    rows = dict.fromkeys(("read", "without_description", "cancelled", "non_products", "without_customer"), 0)
    names = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate"]
    if sequence == "customer":
        names.append("CustomerID")
    types = {name: pl.Float64 if name == "Quantity" else pl.String for name in names}
    required = {"InvoiceNo": "given", "StockCode": "given", "Quantity": "a number", "InvoiceDate": "a time"}
    for table in read_table(source, types, bad, required=required, encoding=encoding):
        rows["read"] += len(table[1])
        _, frame = with_times(table, "InvoiceDate", source, bad)
        kept = [("without_description", pl.col("Description").fill_null("") != "")]
        if drop_cancelled:
            kept.append(("cancelled", ~pl.col("InvoiceNo").str.starts_with("C")))
        if drop_non_products:
            kept.append(("non_products", pl.col("StockCode").str.contains(PRODUCT_CODE)))
        if sequence == "customer":
            kept.append(("without_customer", pl.col("CustomerID").fill_null("") != ""))
            # a spreadsheet makes 17850.0 of it
            frame = frame.with_columns(pl.col("CustomerID").str.replace(r"\.0$", ""))
        for reason, condition in kept:
            before = len(frame)
            frame = frame.filter(condition)
            rows[reason] += before - len(frame)
        codes = collector.append(
            frame["CustomerID" if sequence == "customer" else "InvoiceNo"],
            frame["StockCode"],
            frame["_time"].to_numpy(),
            frame["Quantity"].to_numpy(),
        )
        for place in np.unique(codes, return_index=True)[1].tolist():
            if int(codes[place]) not in texts:
                texts[int(codes[place])] = description_text(frame["Description"][place])
    data = collector.interactions(source.path)
    dataset = pipeline.k_core_dataset(data, texts, user_k, item_k, shuffle_ties)
    settings = {
        "sequence": sequence,
        "drop_cancelled": drop_cancelled,
        "drop_non_products": drop_non_products,
        "user_k": user_k,
        "item_k": item_k,
        "shuffle_ties": shuffle_ties,
    }
    return dataset, provenance("Online Retail", [source], settings, data, bad, rows=rows)


def make_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = new_parser(
        "online_retail",
        "--raw FILE",
        description=(
            "Turn the Online Retail dump (UCI or Kaggle) into a dataset for RecBole and UniSRec. "
            "It takes the file as it is: data.csv from Kaggle (latin-1 or UTF-8, dates as 12/1/2010 8:26 or ISO), or "
            "the original Online Retail.xlsx. As in the paper an invoice is a sequence, rows without description "
            "go, and the text of an item is its first description in lower case. Items of an invoice all have the "
            "same time; they keep the order of the file, or with --shuffle_ties come in random order, as the paper's."
        ),
        epilog=(
            "examples:\n"
            "  python -m dataset_tools.online_retail --raw data.csv\n"
            "  python -m dataset_tools.online_retail --raw 'Online Retail.xlsx' --sequence customer --name buyers \\\n"
            "      --drop_cancelled --drop_non_products"
        ),
    )
    source = parser.add_argument_group("input")
    source.add_argument("--raw", type=Path, required=True, metavar="FILE", help="the csv, xlsx or parquet file")
    source.add_argument(
        "--encoding", help="of a csv (default: guessed: UTF-8 if all of it is valid UTF-8, else Windows-1252)"
    )
    source.add_argument(
        "--sequence", choices=("invoice", "customer"), default="invoice", help="what a user is (default: %(default)s)"
    )
    source.add_argument("--drop_cancelled", action="store_true", help="leave out cancelled invoices (number C...)")
    source.add_argument("--drop_non_products", action="store_true", help="leave out codes such as POST, D, M")
    parser.add_argument("--name", default="OR", help="name of the dataset (default: %(default)s)")
    add_arguments(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run the command."""
    args = make_parser().parse_args(arguments)
    from dataset_tools.sources import Source
    from dataset_tools.writer import make_dataset

    make_dataset(
        args,
        args.name,
        lambda show, bad: build(
            Source(args.raw, show),
            sequence=args.sequence,
            drop_cancelled=args.drop_cancelled,
            drop_non_products=args.drop_non_products,
            user_k=args.user_k,
            item_k=args.item_k,
            shuffle_ties=args.shuffle_ties,
            encoding=args.encoding,
            bad=bad,
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
