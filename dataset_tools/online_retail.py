"""Online Retail (UCI, Kaggle) to RecBole atomic files: a sequence is an invoice, as in the UniSRec paper.

python -m dataset_tools.online_retail --raw data.csv --out dataset
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.arguments import add_table_arguments, table_options
from dataset_tools.common import run_cli
from dataset_tools.kinds import Kind

if TYPE_CHECKING:
    from dataset_tools.left_out import LeftOut
    from dataset_tools.pipeline import Dataset
    from dataset_tools.sources import BadLines, Source

# products have five digits and at most a few letters; the rest is postage, fees, samples, vouchers
PRODUCT_CODE = r"^\d{5}"
# names of the first edition (2010-2011), and those of the second (2009-2011) where they differ
OTHER_NAMES = {"InvoiceNo": "Invoice", "UnitPrice": "Price", "CustomerID": "Customer ID"}
# both editions: 1 December 2009 to 9 December 2011
PERIOD = (1259625600.0, 1323475199.0)


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
    options: dict[str, Any] | None = None,
    day_first: bool | None = None,
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
    options
        How a csv is written: those of `dataset_tools.sources.read_table`; None to find out.
    day_first
        1/12/2010 is in December; None to find out.
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
    from dataset_tools.interactions import Collector
    from dataset_tools.left_out import LeftOut
    from dataset_tools.sources import BadLines, read_table, with_times
    from dataset_tools.writer import provenance

    bad, options = bad or BadLines(), options or {}
    collector, left = Collector(), LeftOut()
    texts: dict[int, str] = {}
    names = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate"]
    if sequence == "customer":
        names.append("CustomerID")
    spelled = _spelled(source, names, options)
    types = {spelled[name]: pl.Float64 if name == "Quantity" else pl.String for name in names}
    needs = {"InvoiceNo": "given", "StockCode": "given", "Quantity": "a number", "InvoiceDate": "a time"}
    required = {spelled[name]: what for name, what in needs.items()}
    if day_first is None:
        day_first = _day_first(source, spelled["InvoiceDate"], options)
    for lines, raw in read_table(source, types, bad, required=required, **options):
        left.rows += len(raw)
        table = lines, raw.rename({spelled[name]: name for name in names})
        table = with_times(table, "InvoiceDate", source, bad, day_first=day_first)
        left.rows -= len(raw) - len(table[1])  # those are bad lines
        frame = table[1].with_columns(pl.col(names).exclude("Quantity", "InvoiceDate", "Description").str.strip_chars())
        for reason, condition in _kept(sequence, drop_cancelled, drop_non_products):
            before = len(frame)
            frame = frame.filter(condition)
            left.count(before - len(frame), reason)
        if sequence == "customer":
            # a spreadsheet makes 17850.0 of it
            frame = frame.with_columns(pl.col("CustomerID").str.replace(r"\.0$", ""))
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
    data.steps[:0] = left.steps(source, bad)
    dataset = pipeline.k_core_dataset(data, texts, user_k, item_k, shuffle_ties)
    settings = {
        "sequence": sequence,
        "drop_cancelled": drop_cancelled,
        "drop_non_products": drop_non_products,
        "user_k": user_k,
        "item_k": item_k,
        "shuffle_ties": shuffle_ties,
    }
    return dataset, provenance("Online Retail", [source], settings, data, bad, rows=_rows(left))


def _kept(sequence: str, drop_cancelled: bool, drop_non_products: bool) -> list[tuple[str, Any]]:
    """Reason to leave rows out, and the polars condition of the rows that stay, in order."""
    import polars as pl

    kept = [("without a description", pl.col("Description").fill_null("") != "")]
    if drop_cancelled:
        kept.append(("of cancelled invoices", ~pl.col("InvoiceNo").str.starts_with("C")))
    if drop_non_products:
        kept.append(("that are no products", pl.col("StockCode").str.contains(PRODUCT_CODE)))
    if sequence == "customer":
        kept.append(("without a customer (guests)", pl.col("CustomerID").fill_null("") != ""))
    return kept


def _rows(left: LeftOut) -> dict[str, int]:
    """Counts of rows, for the provenance file."""
    names = {
        "without_description": "without a description",
        "cancelled": "of cancelled invoices",
        "non_products": "that are no products",
        "without_customer": "without a customer (guests)",
    }
    return {"read": left.rows, **{name: left.reasons.get(reason, 0) for name, reason in names.items()}}


def _spelled(source: Source, names: list[str], options: dict[str, Any]) -> dict[str, str]:
    """Each wanted column to its name in the file: of the first edition, of the second, in any case.

    Raises
    ------
    UserError
        If one is missing.
    """
    from dataset_tools.sources import find_column, match_columns, peek

    found = peek(source, **options, rows=1).columns
    wanted = {
        n: n if find_column(n, found) or not find_column(OTHER_NAMES.get(n, n), found) else OTHER_NAMES[n]
        for n in names
    }
    matches = match_columns(source, list(wanted.values()), found)
    return {name: matches[other] for name, other in wanted.items()}


def _day_first(source: Source, column: str, options: dict[str, Any]) -> bool:
    """Whether 1/12/2010 is in December; the published files write 12/1/2010 with slashes, copies 01-12-2010."""
    import polars as pl

    from dataset_tools.sources import BadLines, DateOrder, read_table

    order = DateOrder(PERIOD)
    for _, frame in read_table(source, {column: pl.String}, BadLines(1 << 62, 0), required={}, **options):
        order.add(frame[column])
        if not order.dates and frame[column].count():
            break  # the first block has other dates
    return order.decide(source, column, usual="/" not in order.marks)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    source = parser.add_argument_group("input")
    source.add_argument("--raw", type=Path, required=True, metavar="FILE", help="the csv, xlsx or parquet file")
    source.add_argument(
        "--sequence", choices=("invoice", "customer"), default="invoice", help="what a user is (default: %(default)s)"
    )
    source.add_argument("--drop_cancelled", action="store_true", help="leave out cancelled invoices (number C...)")
    source.add_argument("--drop_non_products", action="store_true", help="leave out codes such as POST, D, M")
    parser.add_argument("--name", default="OR", help="name of the dataset (default: %(default)s)")
    add_table_arguments(source)


def _read(args: argparse.Namespace, show: bool, bad: BadLines) -> tuple[Dataset, dict[str, Any]]:
    from dataset_tools.sources import Source

    source = Source(args.raw, show, args.quiet)
    source.sheets = args.sheet
    return build(
        source,
        sequence=args.sequence,
        drop_cancelled=args.drop_cancelled,
        drop_non_products=args.drop_non_products,
        user_k=args.user_k,
        item_k=args.item_k,
        shuffle_ties=args.shuffle_ties,
        options=table_options(args),
        day_first=None if args.date_order is None else args.date_order == "day",
        bad=bad,
    )


KIND = Kind(
    tool="online_retail",
    usage="--raw FILE",
    description=(
        "Turn the Online Retail dump (UCI or Kaggle) into a dataset for RecBole and UniSRec. "
        "It takes the file as it is, of either edition (2010-2011, or Online Retail II): csv of any encoding, dates as "
        "12/1/2010 8:26, 01-12-2010 08:26 or ISO, the original workbook with all its sheets, names in any case. "
        "As in the paper an invoice is a sequence, rows without description "
        "go, and the text of an item is its first description in lower case. Items of an invoice all have the "
        "same time; they keep the order of the file, or with --shuffle_ties come in random order, as the paper's."
    ),
    epilog=(
        "examples:\n"
        "  python -m dataset_tools.online_retail --raw data.csv\n"
        "  python -m dataset_tools.online_retail --raw 'Online Retail.xlsx' --sequence customer --name buyers \\\n"
        "      --drop_cancelled --drop_non_products\n"
        "  python -m dataset_tools.online_retail --raw online_retail_II.xlsx --name OR2"
    ),
    options=add_options,
    read=_read,
)
main = KIND.main

if __name__ == "__main__":
    sys.exit(run_cli(main))
