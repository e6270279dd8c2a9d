"""Read times as people and programs write them: numbers, ISO, day first or month first, month names, offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from dataset_tools.common import UserError
from dataset_tools.sources.delimited import Table, keep_rows
from dataset_tools.sources.lines import BadLines, Source

ISO_FORMATS: None = None  # numbers, ISO dates and the other ways of `parse_times`, without a format of one's own
_OFFSET = r"(:\d\d(?:\.\d+)?) ?(?:Z|([+-]\d\d):?(\d\d)?)$"
_DATE = r"^(\d{4}|\d{1,2})([./-])(\d{1,2})[./-](\d{4}|\d{1,2})(?:,? +(.*)|T(.*))?$"
_CLOCK = (
    r"^(\d{1,2})[:.](\d\d)(?::(\d\d(?:[.,]\d+)?))?\s*(?:([AaPp])\.?[Mm]\.?)?"
    r"\s*(?:UTC|GMT|Z)?\s*(?:([+-])(\d\d):?(\d\d)?)?\s*(?:UTC)?\s*(?:\([^)]*\))?$"
)
# abbreviations that exports of shops carry, in hours east of Greenwich; where one is ambiguous the American use counts
_ZONES = {
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9, "HST": -10,
    "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2, "MEZ": 1, "MESZ": 2, "EET": 2, "EEST": 3, "MSK": 3, "JST": 9,
    "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
_DAY_NAME = r"(?i)^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? +"
_DAY_MONTH = r"^(\d{1,2})(?:st|nd|rd|th)?[. -]+([A-Za-z]{3,9})[.,]?[ -]+(\d{4})(.*)$"
_MONTH_DAY = r"^([A-Za-z]{3,9})\.? +(\d{1,2})(?:st|nd|rd|th)?,? +(\d{4})(.*)$"
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}  # noqa: SIM905


def is_time(dtype: Any) -> bool:
    """Whether a polars type is a date or a time of a day."""
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)


def parse_times(values: pl.Series, formats: Sequence[str] | None = None, day_first: bool = False) -> pl.Series:
    """Times as seconds since 1970 (UTC), float64; numbers stay as they are; null where a value is no time.

    A time of day may carry an offset (Z, +02:00, +0200, +02); without one it is UTC.

    Parameters
    ----------
    values
        Text, numbers or times.
    formats
        As of ``strptime``, tried one after the other beside numbers; None reads ISO dates, dates of three numbers,
        and English month names.
    day_first
        3/4/2025 is the third of April.

    >>> parse_times(pl.Series(["12/1/2010 8:26", "2010-12-01T09:26:00+01:00", "1291191960", "soon"])).to_list()
    [1291191960.0, 1291191960.0, 1291191960.0, None]
    >>> parse_times(pl.Series(["01.12.2010 08:26", "Dec 1, 2010 8:26 AM"]), day_first=True).to_list()
    [1291191960.0, 1291191960.0]
    """
    if is_time(values.dtype):
        return values.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    if values.dtype.is_numeric():
        times = values.cast(pl.Float64)
        return times.set(times.is_nan() | times.is_infinite(), None)
    values = values.str.strip_chars()
    known = values.drop_nulls()
    if formats is None and len(known) and (known.str.contains(r"^(?:19|20)\d{6}$")).all():
        days = values.str.to_date("%Y%m%d", strict=False)
        if days.null_count() == values.null_count():
            return days.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    times = values.cast(pl.Float64, strict=False)
    times = times.set(times.is_nan() | times.is_infinite(), None)
    if formats is None:
        return times if not times.null_count() else times.zip_with(times.is_not_null(), _written(values, day_first))
    for form in formats:
        if not times.null_count():
            break
        # only what is still missing is parsed
        text = values.to_frame("t").select(pl.when(times.is_null()).then(pl.col("t")).alias("t"))["t"]
        seconds: Any = 0.0
        if "%z" not in form and "%H" in form:
            parts = text.str.extract_groups(_OFFSET).struct.unnest().cast({"2": pl.Float64, "3": pl.Float64})
            minutes = parts["3"].fill_null(0.0) * (parts["2"] < 0).replace_strict({True: -60.0, False: 60.0})
            seconds = (parts["2"] * 3600 + minutes).fill_null(0.0)
            text = text.str.replace(_OFFSET, "$1")
        stamps = text.str.to_datetime(form, strict=False, time_unit="us").dt.timestamp("us").cast(pl.Float64) / 1e6
        times = times.zip_with(times.is_not_null(), stamps - seconds)
    return times


def _numbers_for_names(text: pl.Series) -> pl.Series:
    """``Fri, 27 Mar 2025 12:00`` and ``March 27, 2025 12:00 pm`` with the date as ISO; other texts as they are."""
    if not text.str.contains(r"[A-Za-z]{3}").any():
        return text
    text = text.str.replace(_DAY_NAME, "")
    for pattern, day, month in ((_DAY_MONTH, "1", "2"), (_MONTH_DAY, "2", "1")):
        parts = text.str.extract_groups(pattern).struct.unnest()
        number = parts[month].str.slice(0, 3).str.to_lowercase().replace_strict(_MONTHS, default=None)
        frame = parts.with_columns(number.cast(pl.String).alias("month"), text.alias("text"))
        iso = pl.concat_str([pl.col("3"), "month", pl.col(day)], separator="-") + pl.col("4")
        text = frame.select(pl.coalesce(iso, pl.col("text")).alias("t"))["t"]
    return text


def _offsets_for_names(clock: pl.Expr) -> pl.Expr:
    """``12:00 CEST`` as ``12:00 +02:00``; other times of day as they are."""
    name = clock.str.extract(r" ([A-Z]{3,4})$", 1)
    signs = {zone: f"{'-' if hours < 0 else '+'}{abs(hours):02d}:00" for zone, hours in _ZONES.items()}
    offset = name.replace_strict(signs, default=None, return_dtype=pl.String)
    return pl.coalesce(clock.str.replace(r" [A-Z]{3,4}$", " ") + offset, clock)


def _written(values: pl.Series, day_first: bool) -> pl.Series:
    """Seconds since 1970 of dates with or without a time of day, float64; null where a text is none."""
    parts = _numbers_for_names(values).str.extract_groups(_DATE).struct.unnest()
    parts = parts.rename({"1": "a", "2": "mark", "3": "b", "4": "c"})
    clock = pl.coalesce(pl.col("5"), pl.col("6"))
    year_first = pl.col("a").str.len_chars() == 4
    last = pl.col("c").str.len_chars()
    day, month = ("a", "b") if day_first else ("b", "a")
    short = pl.col("c").cast(pl.Int32) + pl.when(pl.col("c").cast(pl.Int32) < 70).then(2000).otherwise(1900)
    year = pl.when(year_first).then("a").when(last == 4).then("c").when(last == 2).then(short.cast(pl.String))
    date = pl.concat_str(
        [
            year,
            pl.when(year_first).then("b").otherwise(month).str.zfill(2),
            pl.when(year_first & (last < 4)).then("c").when(~year_first).then(day).str.zfill(2),
        ],
        separator="-",
    )
    frame = parts.select(
        date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.timestamp("us").alias("date"),
        clock.alias("clock"),
        _offsets_for_names(clock.str.strip_chars()).str.extract_groups(_CLOCK).alias("parts"),
    )
    frame = frame.unnest("parts").with_columns(pl.col("3").str.replace(",", "."))
    frame = frame.cast(dict.fromkeys(("1", "2", "3", "6", "7"), pl.Float64))
    half = pl.col("4").str.to_lowercase()
    hour = pl.when(half.is_null()).then("1").otherwise(pl.col("1") % 12 + pl.when(half == "p").then(12).otherwise(0))
    seconds = pl.col("3").fill_null(0.0)
    time = pl.when((hour < 24) & (pl.col("2") < 60) & (seconds < 61)).then(hour * 3600 + pl.col("2") * 60 + seconds)
    offset = pl.col("6") * 3600 + pl.col("7").fill_null(0.0) * 60
    offset = (offset * pl.when(pl.col("5") == "-").then(-1).otherwise(1)).fill_null(0.0)
    no_clock = pl.col("clock").fill_null("") == ""
    stamp = pl.col("date") / 1e6 + pl.when(no_clock).then(0.0).otherwise(time - offset)
    return frame.select(stamp.alias("time"))["time"]


class DateOrder:
    """Tell whether 3/4/2025 is in April or in March, from all dates of a file.

    A number above 12 decides, then the period that the file is known to cover, then the order of the rows in time if
    the file is sorted in one of the two ways alone.

    Parameters
    ----------
    period
        First and last second of that period; None if it is not known.
    """

    def __init__(self, period: tuple[float, float] | None = None) -> None:
        self.dates = self.day = self.month = 0
        self._period = period
        self._inside = {True: 0, False: 0}
        self.marks: set[str] = set()
        self.example = ""
        self._sorted = {True: True, False: True}
        self._last: dict[bool, float] = {}

    def add(self, values: pl.Series) -> None:
        """Look at some texts of the file."""
        if values.dtype != pl.String:
            return
        values = values.str.strip_chars().drop_nulls()
        parts = values.str.extract_groups(r"^(\d{1,2})([./-])(\d{1,2})[./-](?:\d{4}|\d\d)(?:\D|$)").struct.unnest()
        there = parts["1"].is_not_null()
        if not there.any():
            return
        first, second = parts["1"].cast(pl.Int32), parts["3"].cast(pl.Int32)
        self.dates += int(there.sum())
        self.day += int((first > 12).sum())
        self.month += int((second > 12).sum())
        self.marks.update(parts["2"].drop_nulls().unique().to_list())
        self.example = self.example or values.filter(there)[0]
        for day_first in (True, False):
            times = parse_times(values.filter(there), None, day_first).drop_nulls()
            if not len(times):
                continue
            if self._period:
                self._inside[day_first] += int(times.is_between(*self._period).sum())
            first_time: Any = times[0]
            falls = (times.diff() < 0).any() or first_time < self._last.get(day_first, first_time)
            self._sorted[day_first] &= not falls
            self._last[day_first] = float(times[-1])

    def decide(self, source: Source, column: str, usual: bool | None = None) -> bool:
        """Whether days come first; said in one line. ``usual`` is the answer where nothing tells.

        Raises
        ------
        UserError
            If nothing tells, or the file holds both orders.
        """
        if not self.dates:
            return False
        told = None
        if self.day and self.month and min(self.day, self.month) > 0.01 * max(self.day, self.month):
            raise UserError(
                f"the column {column} of {source.path.name} holds dates with the day first and with the month first "
                f"({self.day:,} and {self.month:,} of {self.dates:,}); say which by --date_order, or mend the file"
            )
        if self.day or self.month:
            told = self.day > self.month
            why = f"{max(self.day, self.month):,} dates cannot be read otherwise"
        elif self._inside[True] != self._inside[False]:
            told, why = self._inside[True] > self._inside[False], "the dates lie in the years of this data then"
        elif self._sorted[True] != self._sorted[False]:
            told, why = self._sorted[True], "the file is in the order of time then"
        elif "/" not in self.marks:
            told, why = True, "as usual with dots and dashes"
        elif usual is not None:
            told, why = usual, "as it is published"
        if told is None:
            raise UserError(
                f"the column {column} of {source.path.name} holds dates such as {self.example!r}, and nothing tells "
                "whether the day or the month comes first; pass --date_order day or --date_order month"
            )
        source.note(f"dates have the {'day' if told else 'month'} first: {why} (--date_order says otherwise)")
        return told


def with_times(
    table: Table,
    column: str,
    source: Source,
    bad: BadLines,
    formats: Sequence[str] | None = None,
    reason: str = "is not a time",
    day_first: bool = False,
) -> Table:
    """Add the column ``_time`` (see `parse_times`) to a table of `read_table`; rows whose value is no time go to bad."""
    lines, frame = table
    times = parse_times(frame[column], formats, day_first)
    for row in times.is_null().arg_true().to_list():
        bad.add(source.path.name, lines[row], f"{column} {reason}", str(frame[column][row]))
    table = lines, frame.with_columns(times.alias("_time"))
    return keep_rows(table, times.is_not_null().to_numpy()) if times.null_count() else table
