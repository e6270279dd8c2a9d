"""Read a table of any kind of file (csv, tsv, parquet, jsonl, json, workbook) as polars frames of the wanted columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataset_tools.common import UserError
from dataset_tools.sources.columns import match_columns, unique_names
from dataset_tools.sources.delimited import Table, drop_incomplete, read_delimited
from dataset_tools.sources.dialect import guess_encoding, guess_separator
from dataset_tools.sources.json_lines import fields_of, json_blocks, read_json_lines
from dataset_tools.sources.lines import BadLines, Source, records
from dataset_tools.sources.times import is_time
from dataset_tools.sources.workbook import as_text, sheet_frames, sheet_header

TEXT_KINDS = ("csv", "tsv", "txt")
JSON_KINDS = ("jsonl", "json", "ndjson")
SHEET_KINDS = ("xlsx", "xls", "xlsm", "xlsb", "ods")


def kind_of(source: Source) -> str:
    """What the name of the file says that it is.

    Raises
    ------
    UserError
        If it says nothing that is known.
    """
    kind = source.path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in (*TEXT_KINDS, *JSON_KINDS, *SHEET_KINDS, "parquet"):
        raise UserError(f"{source.path} is of no known kind; csv, tsv, parquet, jsonl and xlsx are read (also .gz)")
    return kind


def read_table(
    source: Source,
    columns: Mapping[str, Any],
    bad: BadLines,
    *,
    required: Mapping[str, str],
    encoding: str | None = None,
    separator: str | None = None,
    quoted: bool = True,
) -> Iterator[Table]:
    """Yield (number of each row, frame of the wanted columns) of a csv, tsv, parquet, jsonl or xlsx file.

    The numbers are lines of the file, in a workbook and a parquet file rows.

    The parameters are those of `read_delimited`; ``encoding`` and ``separator`` None are guessed (see `dialect`). They
    and ``quoted`` only matter to csv and tsv.

    Raises
    ------
    UserError
        If the kind of file is unknown, or a column is missing (it names those that are there).
    """
    kind = kind_of(source)
    if kind in TEXT_KINDS:
        separator, skip = _dialect(source, encoding, separator, quoted)
        yield from read_delimited(
            source, columns, bad, header=True, required=required, separator=separator, quoted=quoted, skip=skip
        )
        return
    if kind == "parquet":
        frames = _parquet_frames(source, list(columns))
    elif kind in JSON_KINDS:
        if source.encoding is None:
            guess_encoding(source)
        frames = _json_frames(source, list(columns), bad)
    else:
        frames = sheet_frames(source, list(columns))
    for lines, frame in frames:
        frame = frame.with_columns(
            # lists (categories, say) become one text; other types are cast, what does not fit becomes null
            pl.col(name).cast(pl.List(pl.String)).list.join(" ")
            if isinstance(frame[name].dtype, pl.List)
            else (pl.col(name) if is_time(frame[name].dtype) else pl.col(name).cast(dtype, strict=False))
            for name, dtype in columns.items()
        )
        yield drop_incomplete(lines, frame, required, source.path.name, bad)


def _dialect(source: Source, encoding: str | None, separator: str | None, quoted: bool) -> tuple[str, int]:
    if encoding is not None:
        source.encoding = encoding
    elif source.encoding is None:
        guess_encoding(source)
    return (separator, 0) if separator else guess_separator(source, quoted)


def peek(
    source: Source, encoding: str | None = None, separator: str | None = None, quoted: bool = True, rows: int = 2000
) -> pl.DataFrame:
    """All columns of the first rows of a table, as text; what cannot be read is left out, and nobody told.

    Raises
    ------
    UserError
        If the kind of file is unknown, or it has no header.
    """
    kind = kind_of(source)
    if kind == "parquet":
        try:
            frame = pl.scan_parquet(source.path).head(rows).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{source.path} is no readable parquet file: {error}") from error
        return frame.select(
            pl.col(name).cast(pl.List(pl.String), strict=False).list.join(" ")
            if isinstance(dtype, pl.List)
            else pl.col(name).cast(pl.String, strict=False)
            for name, dtype in frame.schema.items()
        )
    if kind in SHEET_KINDS:
        names, cells = sheet_header(source, rows)
        return _text_frame(names, cells)
    if kind in JSON_KINDS:
        if source.encoding is None:
            guess_encoding(source)
        _, block = next(_json_blocks(source), (1, b""))
        names = fields_of(block)
        found: list[list[str | None]] = []
        for _, lines in read_json_lines(source, dict.fromkeys(names, Any), BadLines(10**9, 0)):
            found += [[as_text(getattr(line, f"_{place}")) for place in range(len(names))] for line in lines[:rows]]
            break
        return _text_frame(names, found)
    separator, skip = _dialect(source, encoding, separator, quoted)
    head = pl.DataFrame()
    for _, block in source.blocks(1 << 18, quoted):
        number_of_header = skip + 1
        found_rows = [row for _, row in records(block, 1, quoted)][number_of_header - 1 :]
        if not found_rows:
            continue
        names = header_names(found_rows[0], separator, quoted)
        body = b"".join(found_rows[1 : rows + 1])
        head = _parse_text(body, names, separator, quoted)
        break
    if not head.width:
        raise UserError(f"{source.path} is empty; is it the right file?")
    return head


def header_names(record: bytes, separator: str, quoted: bool) -> list[str]:
    """Names of the columns from the first record."""
    from dataset_tools.sources.delimited import split_record

    return unique_names(split_record(record.decode("utf-8", "replace"), separator, quoted))


def _parse_text(body: bytes, names: list[str], separator: str, quoted: bool) -> pl.DataFrame:
    schema = dict.fromkeys(names, pl.String)
    if not body:
        return pl.DataFrame(schema=schema)
    try:
        return pl.read_csv(
            body, has_header=False, schema=schema, separator=separator, quote_char='"' if quoted else None,
            ignore_errors=True, truncate_ragged_lines=True, encoding="utf8-lossy",
        )  # fmt: skip
    except pl.exceptions.PolarsError:
        return pl.DataFrame(schema=schema)


def _text_frame(names: list[str], rows: Sequence[Sequence[str | None]]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pl.DataFrame(
        {name: pl.Series(name, list(c), dtype=pl.String) for name, c in zip(names, columns, strict=True)}
    )


def _parquet_frames(source: Source, names: list[str]) -> Iterator[Table]:
    try:
        table = pl.scan_parquet(source.path)
        matches = match_columns(source, names, table.collect_schema().names())
        rows = table.select(pl.len()).collect().item()
        wanted = [pl.col(match).alias(name) for name, match in matches.items()]
        for start in range(0, rows, 1 << 19):
            frame = table.select(wanted).slice(start, 1 << 19).collect()
            yield range(start + 1, start + 1 + len(frame)), frame
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{source.path} is no readable parquet file: {error}") from error


def _json_blocks(source: Source) -> Iterator[tuple[int, bytes]]:
    return (pair for pair in json_blocks(source) if not pair[1].isspace())


def _json_frames(source: Source, names: list[str], bad: BadLines) -> Iterator[Table]:
    first = next(_json_blocks(source), (1, b""))[1]
    fields = fields_of(first)
    # a field that the first hundred objects lack may come later
    matches = match_columns(source, [n for n in names if fields], fields) if fields else {name: name for name in names}
    for lines, found in read_json_lines(source, {matches[name]: Any for name in names}, bad):
        columns = {
            name: pl.Series(name, [as_text(getattr(record, f"_{place}")) for record in found], dtype=pl.String)
            for place, name in enumerate(names)
        }
        yield lines, pl.DataFrame(columns)
