"""Read an order table row by row: fields of an order for all its rows, lists of items, returns and guests counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.ids import is_missing_word
from dataset_tools.left_out import LeftOut
from dataset_tools.shops.choose import Columns
from dataset_tools.shops.listcells import read_cell
from dataset_tools.sources import BadLines, DateOrder, Source, Table, keep_rows, read_table, with_times


@dataclass(frozen=True)
class Reading:
    """How an order table is to be read.

    Attributes
    ----------
    encoding, separator, quoted
        Of csv and tsv; see `dataset_tools.sources.read_table`.
    time_format
        As of ``strptime``; None for the usual ways.
    day_first
        3/4/2025 is in April; None to find out from all dates of the file.
    drops_returns
        Leave out rows of returns, and of cancelled orders.
    left_out
        Words of the status column that mean a cancelled order, in lower case.
    guests
        Values of the user column that stand for nobody.
    """

    encoding: str | None = None
    separator: str | None = None
    quoted: bool = True
    time_format: str | None = None
    day_first: bool | None = None
    drops_returns: bool = False
    left_out: Sequence[str] = ()
    guests: Sequence[str] = ()

    def options(self) -> dict[str, Any]:
        """Those of `read_table`."""
        return {"encoding": self.encoding, "separator": self.separator, "quoted": self.quoted}


def read_orders(
    source: Source, columns: Columns, reading: Reading, left: LeftOut, bad: BadLines
) -> Iterator[pl.DataFrame]:
    """Yield frames with ``user``, ``item``, ``_time``, ``rating`` and ``title`` of the rows that count, in file order.

    Parameters
    ----------
    source, columns, reading
        The table, and how it is to be read.
    left
        Counts the rows, and those that are left out by reason.
    bad
        Where rows go that cannot be read.
    """
    types: dict[str, Any] = dict.fromkeys(columns.all(), pl.String)
    if columns.rating:
        types[columns.rating] = pl.Float64
    day_first = _day_first(source, columns, reading)
    carry: dict[str, Any] = {}
    returns = done = 0
    for lines, raw in read_table(source, types, bad, required={}, **reading.options()):
        left.rows += len(raw)
        unreadable = bad.per_file.get(source.path.name, 0)
        frame, carry = _fill_orders(_stripped(raw, columns), columns, carry)
        table: Table = lines, frame
        cancelled, returned = _cancelled(frame, columns, reading), _returned(frame, columns)
        if reading.drops_returns:
            table = left.out(table, cancelled, "of cancelled orders")
            table = left.out(table, returned.filter(~cancelled), "with returns")
        else:
            returns += int((cancelled | returned).sum())
        user = table[1][columns.user]
        guests = user.is_null() | user.is_in(list(reading.guests)).fill_null(False)
        table = left.out(table, guests, "without a user (guests)")
        table = _items(table, columns, reading, left)
        table = left.out(table, table[1]["item"].is_null(), "without an item")
        table = _no_missing_words(table, columns, source, bad)
        if columns.time:
            kind = table[1][columns.time].dtype
            if kind == pl.String:
                table = left.out(table, table[1][columns.time].is_null(), "without a time")
            formats = (reading.time_format,) if reading.time_format else None
            reason = "is not a time (see --time_format)"
            _, frame = with_times(table, columns.time, source, bad, formats, reason, day_first)
        else:
            frame = table[1].with_columns((pl.int_range(pl.len()).cast(pl.Float64) + done).alias("_time"))
        left.rows -= bad.per_file.get(source.path.name, 0) - unreadable  # those are counted as bad lines
        done += len(frame)
        yield frame.select(
            pl.col(columns.user).alias("user"),
            "item",
            "_time",
            (pl.col(columns.rating).fill_null(0.0) if columns.rating else pl.lit(0.0)).alias("rating"),
            (pl.col(columns.title) if columns.title else pl.lit(None, dtype=pl.String)).alias("title"),
        )
    if returns:
        source.note(
            f"{returns:,} rows are returns or of cancelled orders, and count as purchases; leave them out by --drop_returns"
        )


def _stripped(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """Text without blanks around it; nothing as null.

    E-mail addresses become lower case, as they name one person, and numbers of users lose the ``.0`` that a spreadsheet
    gave them.
    """
    text = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    stripped = frame.with_columns(pl.col(text).str.strip_chars().replace("", None))
    user = pl.col(columns.user)
    if columns.user not in text:
        return stripped
    plain = user.str.replace(r"^(\d+)\.0+$", "$1")
    return stripped.with_columns(
        pl.when(user.str.contains("@", literal=True)).then(user.str.to_lowercase()).otherwise(plain)
    )


def _fill_orders(frame: pl.DataFrame, columns: Columns, carry: dict[str, Any]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What stands on the first row of an order alone (user, time, status) for all its rows, across blocks too."""
    if columns.order is None or not len(frame):
        return frame, carry
    shared = [
        name for name in dict.fromkeys((columns.user, columns.time, columns.status, columns.cancelled))
        if name and name != columns.order and name not in columns.items
    ]  # fmt: skip
    order = frame[columns.order]
    if carry and order[0] is not None and order[0] == carry[columns.order]:
        same = pl.col(columns.order) == carry[columns.order]
        frame = frame.with_columns(
            pl.when(same & pl.col(name).is_null())
            .then(pl.lit(carry[name], dtype=frame.schema[name]))
            .otherwise(pl.col(name))
            .alias(name)
            for name in shared
        )
    if any(frame[name].null_count() for name in shared):
        frame = frame.with_columns(
            pl.when(pl.col(columns.order).is_null())
            .then(pl.col(name))
            .otherwise(pl.col(name).forward_fill().over(columns.order))
            .alias(name)
            for name in shared
        )
    last = frame.tail(1)
    return frame, {name: last[name][0] for name in (columns.order, *shared)}


def _number(frame: pl.DataFrame, column: str) -> pl.Series:
    """Numbers of a text column, float64; a comma may be the decimal point."""
    text = frame[column].cast(pl.String)
    found = text.cast(pl.Float64, strict=False)
    return found if found.null_count() == text.null_count() else found.fill_null(
        text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
    )  # fmt: skip


def _cancelled(frame: pl.DataFrame, columns: Columns, reading: Reading) -> pl.Series:
    mask = pl.Series(np.zeros(len(frame), dtype=bool))
    if columns.status and reading.left_out:
        words = frame[columns.status].cast(pl.String).str.to_lowercase().str.strip_prefix("wc-")
        mask |= words.is_in(list(reading.left_out)).fill_null(False)
    if columns.cancelled:
        mask |= frame[columns.cancelled].is_not_null()
    return mask


def _returned(frame: pl.DataFrame, columns: Columns) -> pl.Series:
    mask = pl.Series(np.zeros(len(frame), dtype=bool))
    if columns.quantity and not columns.form:
        quantity = _number(frame, columns.quantity)
        mask |= (quantity <= 0).fill_null(False)
        if columns.refunded:
            mask |= (_number(frame, columns.refunded).abs() >= quantity).fill_null(False)
    return mask


def _items(table: Table, columns: Columns, reading: Reading, left: LeftOut) -> Table:
    """Add the column ``item``; an order with a list of items becomes as many rows."""
    lines, frame = table
    if columns.form is None:
        return lines, frame.with_columns(pl.col(columns.items[0]).alias("item"))
    form = columns.form
    rows: list[int] = []
    items: list[str | None] = []
    returned = 0
    for row, cells in enumerate(frame.select(columns.items).iter_rows()):
        found = [pair for cell in cells if cell for pair in read_cell(cell, form)]
        kept: list[str | None] = [item for item, count in found if count > 0 or not reading.drops_returns]
        returned += len(found) - len(kept)
        if not found:
            kept = [None]  # counted as a row without an item
        rows += [row] * len(kept)
        items += kept
    left.added += len(items) + returned - len(frame)
    if returned:
        left.count(returned, "with returns")
    exploded = frame[rows].with_columns(pl.Series("item", items, dtype=pl.String))
    return np.asarray(lines)[rows].tolist(), exploded


def _no_missing_words(table: Table, columns: Columns, source: Source, bad: BadLines) -> Table:
    """Leave out ids that RecBole reads as nothing, such as NA; each is a bad line."""
    for column in (columns.user, "item"):
        missing = is_missing_word(table[1][column])
        for row in missing.arg_true().to_list():
            reason = f"{column} is {table[1][column][row]!r}, which RecBole reads as nothing"
            bad.add(source.path.name, table[0][row], reason, str(table[1].row(row)))
        if missing.any():
            table = keep_rows(table, ~missing.to_numpy())
    return table


def _day_first(source: Source, columns: Columns, reading: Reading) -> bool:
    """The order of day and month, by all dates of the file unless a flag says it; one quick pass of one column."""
    if reading.day_first is not None or columns.time is None or reading.time_format:
        return bool(reading.day_first)
    order = DateOrder()
    quiet = BadLines(1 << 62, 0)
    for _, frame in read_table(source, {columns.time: pl.String}, quiet, required={}, **reading.options()):
        order.add(frame[columns.time])
        if not order.dates and frame[columns.time].count():
            break  # the first block has other dates
    return order.decide(source, columns.time)
