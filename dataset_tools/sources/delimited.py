"""Read tables of separated fields (csv, tsv), block by block, into polars frames of the wanted columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.sources.columns import match_columns, unique_names
from dataset_tools.sources.lines import BadLines, Source, records

Lines = Sequence[int] | Sequence[str]  # numbers of rows, in a workbook of several sheets ``sheet!row``
Table = tuple[Lines, pl.DataFrame]


def read_delimited(
    source: Source,
    columns: Mapping[str, Any],
    bad: BadLines,
    *,
    header: bool,
    required: Mapping[str, str],
    separator: str = ",",
    quoted: bool = True,
    skip: int = 0,
) -> Iterator[Table]:
    """Yield (line number of each row, frame of the wanted columns) of a CSV or TSV file, block by block.

    Parameters
    ----------
    source
        The file.
    columns
        Column name in the file to the polars type wanted. Without ``header`` these are all columns, in order.
    bad
        Where lines go with a wrong column count, bytes that do not decode, or no value in a required column.
    header
        The first line names the columns.
    required
        Column name to what it must hold, for the message ("a number"). A row without it is a bad line.
    separator, quoted
        Of the file; ``quoted`` False takes quotes as they are.
    skip
        Lines before the header.

    Raises
    ------
    UserError
        If a column is missing, or the encoding is wrong.
    """
    names = list(columns) if not header else None
    matches = {name: name for name in columns}
    file = source.path.name
    for number, block in source.blocks(quoted=quoted):
        if block.isspace():
            continue
        if names is None:
            for _ in range(skip):
                number, block = number + 1, block[block.index(b"\n") + 1 :]
            found = next(records(block, number, quoted), None)
            if found is None:
                continue
            end = block.index(found[1]) + len(found[1])
            names = unique_names(split_record(found[1].decode("utf-8", "replace"), separator, quoted))
            matches = match_columns(source, list(columns), names)
            number += block.count(b"\n", 0, end)
            block = block[end:]
            if not block:
                continue
        here = {matches[name]: dtype for name, dtype in columns.items()}
        due = {matches[name]: what for name, what in required.items()}
        lines, frame = _frame(block, number, names, here, due, separator, quoted, file, bad)
        yield lines, frame.select(pl.col(match).alias(name) for name, match in matches.items())


def split_record(record: str, separator: str, quoted: bool) -> list[str]:
    """Fields of one record by the standard library: slow, for headers and damaged blocks only."""
    if not quoted:
        return record.rstrip("\r\n").split(separator)
    rows = list(csv.reader(io.StringIO(record, newline=""), delimiter=separator))
    return rows[0] if len(rows) == 1 else []


def _frame(
    block: bytes,
    number: int,
    names: list[str],
    columns: Mapping[str, Any],
    required: Mapping[str, str],
    separator: str,
    quoted: bool,
    file: str,
    bad: BadLines,
) -> Table:
    """Parse one block; whatever is odd about it sends it through the line-by-line path once."""
    quoted = quoted and b'"' in block
    try:
        n_lines = block.count(b"\n")
        # the one fault that the parser does not report; quoted blocks hold separators inside their fields
        if quoted or block.count(separator.encode()) == (len(names) - 1) * n_lines:
            frame = _parse(block, names, columns, separator, quoted)
            if not any(frame[name].null_count() for name in required):
                if len(frame) == n_lines:
                    return range(number, number + n_lines), frame
                lines = [here for here, _ in records(block, number, quoted)]
                if len(frame) == len(lines):
                    return lines, frame
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        pass
    lines, kept = [], []
    for here, record in records(block, number, quoted):
        try:
            found = len(split_record(record.decode("utf-8"), separator, quoted))
        except UnicodeDecodeError:
            bad.add(file, here, "bytes that are not UTF-8 (another --encoding?)", record)
            continue
        except csv.Error as error:
            bad.add(file, here, str(error), record)
            continue
        if found != len(names):
            more = record.rstrip(b"\r\n").count(b"\n")
            until = f" (a quote reaches to line {here + more})" if more else ""
            bad.add(file, here, f"{found} columns where {len(names)} are due{until}", record.rstrip(b"\r\n"))
            continue
        lines.append(here)
        kept.append(record)
    if not kept:
        return [], pl.DataFrame(schema=dict(columns))
    try:
        frame = _parse(b"".join(kept), names, columns, separator, quoted)
    except pl.exceptions.PolarsError:
        frames, readable = [], []
        for place, (here, record) in enumerate(zip(lines, kept, strict=True)):
            try:
                frames.append(_parse(record, names, columns, separator, quoted))
                readable.append(place)
            except pl.exceptions.PolarsError:
                bad.add(file, here, "quotes that do not match", record.rstrip(b"\r\n"))
        lines, kept = [lines[place] for place in readable], [kept[place] for place in readable]
        frame = pl.concat([pl.DataFrame(schema=dict(columns)), *frames])
    return drop_incomplete(lines, frame, required, file, bad, kept)


def drop_incomplete(
    lines: Lines,
    frame: pl.DataFrame,
    required: Mapping[str, str],
    file: str,
    bad: BadLines,
    records: Sequence[bytes] | None = None,
) -> Table:
    """Leave out the rows with nothing in a required column; each is a bad line."""
    expected = list(required.items())
    masks = [frame[name].is_null().to_numpy() for name, _ in expected]
    wrong = np.logical_or.reduce(masks) if masks else np.zeros(len(frame), dtype=bool)
    if not wrong.any():
        return lines, frame
    for row in np.flatnonzero(wrong).tolist():
        name, what = next(pair for pair, mask in zip(expected, masks, strict=True) if mask[row])
        text = records[row].rstrip(b"\r\n") if records else str(frame.row(row))
        bad.add(file, lines[row], f"{name} is not {what}", text)
    return keep_rows((lines, frame), ~wrong)


def keep_rows(table: Table, mask: np.ndarray) -> Table:
    """Rows of a table where the mask is true."""
    lines, frame = table
    return np.asarray(lines)[mask].tolist(), frame.filter(pl.Series(mask))


def _parse(block: bytes, names: list[str], columns: Mapping[str, Any], separator: str, quoted: bool) -> pl.DataFrame:
    schema = {name: columns.get(name, pl.String) for name in names}
    return pl.read_csv(
        block,
        has_header=False,
        schema=schema,
        separator=separator,
        quote_char='"' if quoted else None,
        ignore_errors=True,
    ).select(list(columns))
