"""The shop's own tables, read from its exports as they are, kept as parquet, and joined with what comes later."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from dataset_tools.common import UserError, atomic_path
from dataset_tools.shops.returns import sent_back

ORDERS = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64}
KEY = [*ORDERS, "back"]  # of a row of the ledger; back: whether it is a return
USER_K = 3  # purchases of a customer: one to test with, one to choose the model by, one to learn from
CUSTOMERS, PRODUCTS = 10, 5  # fewer than that teach nothing


@dataclass
class Tables:
    """What a shop sold, and what it sells.

    Attributes
    ----------
    orders
        ``user_id``, ``item_id`` and ``timestamp``, a row for each product bought and kept, in the order of the files.
    products
        ``item_id`` and the parts of the text, ``text_1`` (the title) to at most ``text_9``.
    steps
        How many rows there were after each step, and how many went.
    notes
        What was taken for what, a sentence each.
    ledger
        All that the files said, from which ``orders`` follow: the same columns and ``quantity``, which is below 0 for a
        return, 0 for what was cancelled or refunded, and null where nothing says it. None: as many as ``orders`` has.
    """

    orders: pl.DataFrame
    products: pl.DataFrame
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ledger: pl.DataFrame | None = None

    def said(self) -> pl.DataFrame:
        """The ledger, of a shop from before there was one too."""
        if self.ledger is not None:
            return self.ledger
        return self.orders.with_columns(quantity=pl.lit(None, dtype=pl.Float64))

    def write(self, folder: Path) -> None:
        """Keep the tables."""
        for name, frame in (("orders", self.orders), ("products", self.products), ("ledger", self.said())):
            with atomic_path(folder / f"{name}.parquet") as temporary:
                frame.write_parquet(temporary)

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """The tables that `write` kept.

        Raises
        ------
        UserError
            If one is missing or damaged.
        """
        try:
            ledger = folder / "ledger.parquet"
            return cls(
                pl.read_parquet(folder / "orders.parquet"),
                pl.read_parquet(folder / "products.parquet"),
                ledger=pl.read_parquet(ledger) if ledger.is_file() else None,
            )
        except (OSError, pl.exceptions.PolarsError) as error:
            raise UserError(
                f"{folder} holds no readable tables of a shop ({error}); make them with unisrec start"
            ) from error

    def joined(self, newer: Tables) -> Tables:
        """With later orders behind the earlier ones.

        What both have counts once, as the later files say it: an order that was cancelled since then, or was sent back, is
        gone. A later product text counts.
        """
        ledger = _joined(self.said(), newer.said())
        products = pl.concat([newer.products, self.products], how="diagonal").unique(
            "item_id", keep="first", maintain_order=True
        )
        return Tables(bought(ledger)[0], products, newer.steps, newer.notes, ledger)


def _joined(older: pl.DataFrame, newer: pl.DataFrame) -> pl.DataFrame:
    """Two ledgers, each row once where it stood first, with the quantity of the newer one."""
    back = (pl.col("quantity") < 0).fill_null(False).alias("back")
    older, newer = older.with_columns(back), newer.with_columns(back)
    known = newer.select(*KEY, pl.col("quantity").alias("now"), pl.lit(True).alias("told"))
    updated = older.join(known, on=KEY, how="left", maintain_order="left").with_columns(
        quantity=pl.when(pl.col("told")).then("now").otherwise("quantity")
    )
    added = newer.join(older, on=KEY, how="anti", maintain_order="left")
    columns = [*ORDERS, "quantity"]
    return pl.concat([updated.select(columns), added.select(columns)])


def bought(ledger: pl.DataFrame) -> tuple[pl.DataFrame, int, int]:
    """The orders of a ledger, how many purchases were sent back later, and how many returns are of nothing known."""
    quantity = pl.col("quantity").fill_null(1.0)
    all_bought, returned = ledger.filter(quantity > 0), ledger.filter(quantity < 0)
    names = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    sides = [frame.select(**names, quantity=quantity) for frame in (all_bought, returned)]
    gone, unknown = sent_back(*sides)
    return all_bought.filter(~pl.Series(gone)).select(*ORDERS), int(gone.sum()), unknown


def _once(ledger: pl.DataFrame) -> pl.DataFrame:
    """One row for each customer, product and time, of returns apart; pieces add up, those of a repeated row do not."""
    back = (pl.col("quantity") < 0).fill_null(False).alias("back")
    rows = ledger.unique(keep="first", maintain_order=True).with_columns(back)
    total = pl.when(pl.col("quantity").count() > 0).then(pl.col("quantity").sum()).alias("quantity")
    return rows.group_by(KEY, maintain_order=True).agg(total).select(*ORDERS, "quantity")


def read_exports(
    orders: Sequence[Path], products: Path | None, args: argparse.Namespace, before: Tables | None = None
) -> Tables:
    """Read order exports, one file after the other, and a product export.

    Parameters
    ----------
    orders
        The files.
    products
        None if the orders name the products.
    args
        With the options of `dataset_tools.custom.add_shop_options` and of
        `dataset_tools.arguments.add_table_arguments`, and ``quiet`` and ``max_bad_lines``.
    before
        What the shop had: its products count as known where there is no new table, and rows without a time follow it.

    Raises
    ------
    UserError
        If a file cannot be read, or nothing is left.
    """
    from dataset_tools.custom import shop_options
    from dataset_tools.left_out import LeftOut
    from dataset_tools.shops import products as product_tools
    from dataset_tools.shops.choose import choose_columns
    from dataset_tools.shops.orders import read_orders
    from dataset_tools.shops.returns import newest_first, note_newest_first, note_unknown, oldest_first
    from dataset_tools.sources import BadLines, Source, peek

    bad, bar = BadLines(args.max_bad_lines), not args.quiet and sys.stderr.isatty()
    item_source = Source(products, bar, args.quiet) if products else None
    ledger: pl.DataFrame | None = None
    n_rows, steps, notes, sources = 0, [], [], []
    texts = pl.DataFrame(schema={"item_id": pl.String, "text_1": pl.String})
    latest = 0.0 if before is None else float(before.orders["timestamp"].max() or 0.0) + 1  # type: ignore[arg-type]
    for number, path in enumerate(orders):
        source, left = Source(path, bar, args.quiet), LeftOut()
        options = shop_options(args, source)
        reading, match = options["reading"], options["id_match"]
        if args.drop_returns is None:  # a shop does not want what was sent back to count as liked
            reading = replace(reading, drops_returns=True)
        head = peek(source, **reading.options())
        item_head = peek(item_source, **reading.options()) if item_source else None
        columns, item_columns = choose_columns(
            source, head, item_source, item_head, options["layout"], options["wishes"]
        )
        back: list[pl.DataFrame] = []
        found = list(read_orders(source, columns, reading, left, bad, back))
        rows = pl.concat(found) if found else pl.DataFrame()
        if not len(rows):
            why = f"; of {left.rows:,} rows all are left out ({', '.join(left.reasons)})" if left.reasons else ""
            raise UserError(f"{path} holds no purchase that can be used{why}; is it the right file?")
        times, numbers = rows["_time"].to_numpy(), rows["order"].to_numpy()
        if newest_first(times):
            note_newest_first(source, times, numbers)
            rows = rows[oldest_first(numbers)]
        if columns.quantity is None and columns.form is None:
            rows = rows.with_columns(quantity=pl.lit(None, dtype=pl.Float64))
        rows = pl.concat([rows, *back], how="diagonal")
        rows = rows.with_columns(product_tools.canonical(rows["item"], match))
        counts = (rows["quantity"] > 0).fill_null(True)
        if columns.time is None:  # the order of the files is the order in time
            rows = rows.with_columns(pl.col("_time") + latest)
            latest += left.rows + left.added
        steps += left.steps(source, bad) or [{"step": f"rows of {path.name}", "interactions": len(rows)}]
        n_rows += int(counts.sum())
        if item_source is not None and item_columns is not None and item_head is not None:
            if number == 0:
                texts = _product_texts(item_source, item_columns, reading.options(), bad)
            own = texts.select(own="item_id")
            if before is not None:  # products of before are known, though no longer in the table
                own = pl.concat([own, before.products.select(own="item_id")])
            keys = product_tools.canonical(own["own"], match)
            named = own.with_columns(keys.alias("item")).unique("item", keep="first", maintain_order=True)
            meeting = rows.join(named, on="item", how="left", maintain_order="left")
            gone = int((meeting["own"].is_null() & counts).sum())
            if gone == counts.sum():
                ids = rows["item"].unique(maintain_order=True)
                raise UserError(
                    f"none of the {gone:,} purchases is of a product in {item_source.path.name}; "
                    + product_tools.why_nothing_meets(
                        source, ids, item_source, item_head, item_columns.item, texts["item_id"]
                    )
                )
            if gone:
                step = f"rows of products that {item_source.path.name} lacks left out"
                steps.append({"step": step, "interactions": int(counts.sum()) - gone, "left_out": gone})
                n_rows -= gone
            rows = meeting.drop_nulls("own").with_columns(pl.col("own").alias("item"))
        else:
            titles = rows.filter(counts).group_by("item", maintain_order=True).agg(pl.col("title").drop_nulls().first())
            titles = titles.select(pl.col("item").alias("item_id"), pl.col("title").fill_null("").alias("text_1"))
            texts = pl.concat([texts, titles]).unique("item_id", keep="first", maintain_order=True)
        told = _once(rows.select(user_id="user", item_id="item", timestamp="_time", quantity="quantity"))
        ledger = told if ledger is None else _joined(ledger, told)
        sources.append(source)
    assert ledger is not None
    unique, gone, unknown = bought(ledger)
    repeated = n_rows - len(unique) - gone
    if repeated:
        left_rows = len(unique) + gone
        steps.append({"step": "rows that repeat another left out", "interactions": left_rows, "left_out": repeated})
    if gone:
        step = "rows of purchases that were sent back later left out"
        steps.append({"step": step, "interactions": len(unique), "left_out": gone})
    if before is None:
        note_unknown(sources[-1], unknown)
    for source in (*sources, *([item_source] if item_source else [])):
        notes += [f"{source.path.name}: {note}" for note in source.notes]
    if before is not None and item_source is None:  # a text that was given before says more than a name in an order
        texts = pl.concat([before.products, texts], how="diagonal").unique("item_id", keep="first", maintain_order=True)
    return Tables(unique, texts, steps, notes, ledger)


def _product_texts(source: Any, columns: Any, options: dict[str, Any], bad: Any) -> pl.DataFrame:
    from dataset_tools.shops.products import read_products

    names = {name: f"text_{place}" for place, name in enumerate(columns.texts[:9], start=1)}
    frames = [
        frame.select(pl.col(columns.item).alias("item_id"), *(pl.col(name).alias(to) for name, to in names.items()))
        for frame in read_products(source, columns, options, bad)
    ]
    if not frames or not sum(map(len, frames)):
        raise UserError(f"{source.path} holds no product; is it the right file?")
    return pl.concat(frames).unique("item_id", keep="first", maintain_order=True)


def build_dataset(tables: Tables, folder: Path, name: str) -> list[dict[str, Any]]:
    """Write ``folder/dataset/NAME`` from the tables in ``folder``; what lies there is replaced.

    Returns
    -------
    list of dict
        How many purchases, customers and products there were after each step.

    Raises
    ------
    UserError
        If too few customers bought often enough to learn from.
    """
    from dataset_tools.custom import build
    from dataset_tools.shops.choose import NONE, Wishes
    from dataset_tools.shops.layouts import ANY
    from dataset_tools.shops.orders import Reading
    from dataset_tools.sources import Source
    from dataset_tools.writer import write_dataset

    enough = tables.orders.group_by("user_id").len().filter(pl.col("len") >= USER_K)
    n_items = tables.orders["item_id"].n_unique()
    if len(enough) < CUSTOMERS or n_items < PRODUCTS:
        raise UserError(
            f"this is too little to learn from: {len(enough):,} customers bought {USER_K} times or more, and "
            f"{n_items:,} products were sold; {CUSTOMERS} such customers and {PRODUCTS} products are needed, and some "
            "hundred customers make it good. Add older orders (--orders takes several files)"
        )
    texts = [column for column in tables.products.columns if column.startswith("text_")]
    wishes = Wishes(
        user="user_id", item="item_id", time="timestamp", order=NONE, quantity=NONE, status=NONE, product="item_id",
        texts=tuple(texts), list_separator=NONE,
    )  # fmt: skip
    sources = [Source(folder / f"{table}.parquet", quiet=True) for table in ("orders", "products")]
    dataset, provenance = build(*sources, layout=ANY, wishes=wishes, reading=Reading(), user_k=USER_K, item_k=1)
    write_dataset(folder / "dataset", name, dataset, provenance=provenance, overwrite=True)
    return dataset.steps
