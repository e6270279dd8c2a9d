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
    source: Source,
    columns: Columns,
    reading: Reading,
    left: LeftOut,
    bad: BadLines,
    back: list[pl.DataFrame] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield frames of the rows that count, in file order.

    Their columns are ``user``, ``item``, ``_time``, ``rating``, ``title``, ``quantity`` (above 0; what is left after
    refunds that stand in the same row; 1 where nothing says it) and ``order`` (a number that rises with each order, or
    with each row of the file where there is no column of the order).

    Parameters
    ----------
    source, columns, reading
        The table, and how it is to be read.
    left
        Counts the rows, and those that are left out by reason.
    bad
        Where rows go that cannot be read.
    back
        Takes frames with ``user``, ``item``, ``_time`` and ``quantity`` of the rows that are left out as returns (below
        0) or as cancelled or refunded (0).
    """
    types: dict[str, Any] = dict.fromkeys(columns.all(), pl.String)
    if columns.rating:
        types[columns.rating] = pl.Float64
    day_first = _day_first(source, columns, reading)
    carry: dict[str, Any] = {}
    returns = done = orders = 0
    last: str | None = None
    nobody = LeftOut()  # counts what is counted elsewhere

    def finished(table: Table, left: LeftOut, bad: BadLines) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Guests, lists of items, missing ids and times of one block; what counts, and items of lists that came back."""
        user = table[1][columns.user]
        guests = user.is_null() | user.is_in(list(reading.guests)).fill_null(False)
        table = left.out(table, guests, "without a user (guests)")
        table = _items(table, columns, left)
        away = table[1]["_quantity"] <= 0
        if not (columns.form and reading.drops_returns and left is not nobody):
            away = away & False
        gone = keep_rows(table, away.to_numpy())
        table = left.out(table, away, "with returns")
        table = left.out(table, table[1]["item"].is_null(), "without an item")
        return timed(_no_missing_words(table, columns, source, bad), left, bad), timed(
            gone, nobody, BadLines(1 << 62, 0)
        )

    def timed(table: Table, left: LeftOut, bad: BadLines) -> pl.DataFrame:
        if columns.time is None:
            return table[1]
        if table[1][columns.time].dtype == pl.String:
            table = left.out(table, table[1][columns.time].is_null(), "without a time")
        formats = (reading.time_format,) if reading.time_format else None
        reason = "is not a time (see --time_format)"
        return with_times(table, columns.time, source, bad, formats, reason, day_first)[1]

    for lines, raw in read_table(source, types, bad, required={}, **reading.options()):
        left.rows += len(raw)
        unreadable = bad.per_file.get(source.path.name, 0)
        frame, carry = _fill_orders(_stripped(raw, columns), columns, carry)
        if columns.clock and columns.time:
            frame = frame.with_columns(_with_clock(columns.time, columns.clock))
        numbers, orders, last = _order_numbers(frame, columns, orders, last)
        quantity = _quantity(frame, columns)
        cancelled, returned = _cancelled(frame, columns, reading), (quantity <= 0).fill_null(False)
        quantity = pl.select(pl.when(cancelled).then(0.0).otherwise(quantity.fill_null(1.0))).to_series()
        row = pl.int_range(pl.len()).alias("_row")
        table: Table = lines, frame.with_columns(numbers.alias("_order"), quantity.alias("_quantity"), row)
        away = table[1].head(0)
        if reading.drops_returns:
            gone = keep_rows(table, (cancelled | returned).to_numpy())
            table = left.out(table, cancelled, "of cancelled orders")
            table = left.out(table, returned.filter(~cancelled), "with returns")
            away, _ = finished(gone, nobody, BadLines(1 << 62, 0))
        else:
            returns += int((cancelled | returned).sum())
            table = lines, table[1].with_columns(_quantity=pl.lit(1.0))
        frame, items = finished(table, left, bad)
        if columns.time is None:
            frame = frame.with_columns((pl.int_range(pl.len()).cast(pl.Float64) + done).alias("_time"))
            away, items = (_between(part, frame, done) for part in (away, items))
        if back is not None:
            back += [
                part.select(pl.col(columns.user).alias("user"), "item", "_time", quantity="_quantity")
                for part in (away, items)
                if len(part)
            ]
        left.rows -= bad.per_file.get(source.path.name, 0) - unreadable  # those are counted as bad lines
        done += len(frame)
        yield frame.select(
            pl.col(columns.user).alias("user"),
            "item",
            "_time",
            (pl.col(columns.rating).fill_null(0.0) if columns.rating else pl.lit(0.0)).alias("rating"),
            (pl.col(columns.title) if columns.title else pl.lit(None, dtype=pl.String)).alias("title"),
            quantity="_quantity",
            order="_order",
        )
    if returns:
        source.note(
            f"{returns:,} rows are returns or of cancelled orders, and count as purchases; leave them out by --drop_returns"
        )


def _order_numbers(
    frame: pl.DataFrame, columns: Columns, before: int, last: str | None
) -> tuple[pl.Series, int, str | None]:
    """A number for each row that rises with each order, the highest one, and the id of the last order."""
    if columns.order is None or not len(frame):
        return pl.Series(np.arange(before + 1, before + len(frame) + 1)), before + len(frame), None
    ids = frame[columns.order]
    fresh = (ids != ids.shift(1, fill_value=last)).fill_null(True)  # a row without an order is one of its own
    numbers = fresh.cast(pl.Int64).cum_sum() + before
    return numbers, int(numbers[-1]), ids[-1]


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
        name for name in dict.fromkeys((columns.user, columns.time, columns.clock, columns.status, columns.cancelled))
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


def _with_clock(time: str, clock: str) -> pl.Expr:
    """A date and the hour from another column as one text, where the date has none."""
    both = pl.concat_str([pl.col(time), pl.col(clock)], separator=" ")
    has_none = ~pl.col(time).str.contains(":", literal=True) & pl.col(clock).is_not_null()
    return pl.when(has_none).then(both).otherwise(pl.col(time)).alias(time)


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


def _quantity(frame: pl.DataFrame, columns: Columns) -> pl.Series:
    """Pieces that are left of each row, float64, 0 where all came back, below 0 for a return; null where nothing says it."""
    if not columns.quantity or columns.form:
        return pl.Series(np.full(len(frame), np.nan)).fill_nan(None)
    bought = _number(frame, columns.quantity)
    if not columns.refunded:
        return bought
    refunded = sum((_number(frame, name).abs().fill_null(0.0) for name in columns.refunded), start=0.0 * bought)
    left = pl.select(pl.max_horizontal(bought - refunded, 0.0)).to_series()
    return pl.select(pl.when(bought < 0).then(bought).otherwise(left)).to_series()


def _between(gone: pl.DataFrame, kept: pl.DataFrame, done: int) -> pl.DataFrame:
    """Times of rows that were left out, where the place in the file is the time: after the kept rows before them."""
    place = np.searchsorted(kept["_row"].to_numpy(), gone["_row"].to_numpy())
    return gone.with_columns(pl.Series("_time", place + done - 0.5, dtype=pl.Float64))


def _items(table: Table, columns: Columns, left: LeftOut) -> Table:
    """Add the column ``item``; an order with a list of items becomes as many rows, each with its own quantity."""
    lines, frame = table
    if columns.form is None:
        return lines, frame.with_columns(pl.col(columns.items[0]).alias("item"))
    form = columns.form
    rows: list[int] = []
    items: list[str | None] = []
    counts: list[float] = []
    for row, cells in enumerate(frame.select(columns.items).iter_rows()):
        found = [pair for cell in cells if cell for pair in read_cell(cell, form)]
        if not found:
            rows.append(row)
            items.append(None)  # counted as a row without an item
            counts.append(1.0)
        for item, count in found:
            rows.append(row)
            items.append(item)
            counts.append(count)
    left.added += len(items) - len(frame)
    exploded = frame[rows].with_columns(pl.Series("item", items, dtype=pl.String))
    own = pl.when(pl.col("_quantity") == 0).then(0.0).otherwise(pl.Series(counts, dtype=pl.Float64))
    return np.asarray(lines)[rows].tolist(), exploded.with_columns(own.alias("_quantity"))


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
