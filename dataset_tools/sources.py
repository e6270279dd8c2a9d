"""Read dumps in line-aligned blocks, in bounded memory, with a checksum and a progress bar on the way.

Every reader of the dataset tools goes through `Source`: it opens plain and gzip files alike (gzip by isal, inflating in
a second thread), computes the SHA-256 of the file's own bytes while they pass, and hands out blocks that end at a line
end. Lines that cannot be read go to a `BadLines`, which shows the first few and stops the run past a limit.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from isal import igzip_threaded, isal_zlib
from tqdm import tqdm

from dataset_tools.common import UserError

_GZIP_ERROR: Any = isal_zlib.error
BLOCK = 8 << 20  # bytes; larger blocks read no faster and hold more memory


class BadLines:
    """Count the lines that could not be read, show the first few, stop past a limit.

    Parameters
    ----------
    limit
        As many bad lines are skipped; one more ends the run.
    shown
        As many are printed to stderr.
    """

    def __init__(self, limit: int = 1000, shown: int = 5) -> None:
        self.limit = limit
        self.shown = shown
        self.total = 0
        self.per_file: dict[str, int] = {}

    def add(self, file: str, number: int, reason: str, line: str | bytes) -> None:
        """Count one bad line.

        Raises
        ------
        UserError
            If there are now more than ``limit``.
        """
        self.total += 1
        self.per_file[file] = self.per_file.get(file, 0) + 1
        if self.total <= self.shown:
            text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
            text = text if len(text) <= 100 else text[:97] + "..."
            print(f"skipped {file}, line {number}: {reason}: {text!r}", file=sys.stderr)
        if self.total > self.limit:
            raise UserError(
                f"more than {self.limit} lines could not be read, the last is line {number} of {file} ({reason}); "
                "check the file, or allow more with --max_bad_lines"
            )


class _Counted(io.RawIOBase):
    """A file that tells a checksum and a progress bar what is read from it."""

    def __init__(self, path: Path, bar: Any) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115, closed by close()
        self._bar = bar
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        self._bar.update(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class Source:
    """A dump on disk, plain or gzip.

    Parameters
    ----------
    path
        The file; ``.gz`` at the end of the name means gzip.
    progress
        Show a bar while it is read.
    """

    def __init__(self, path: str | Path, progress: bool = False) -> None:
        self.path = Path(path)
        self.progress = progress
        self.sha256: str | None = None
        if not self.path.is_file():
            raise UserError(f"there is no file {self.path}; check the path")

    def record(self) -> dict[str, Any]:
        """Name, size and checksum, for the provenance file."""
        if self.sha256 is None:
            digest = hashlib.sha256()
            with open(self.path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            self.sha256 = digest.hexdigest()
        return {"file": self.path.name, "bytes": self.path.stat().st_size, "sha256": self.sha256}

    def blocks(self, size: int = BLOCK, quoted: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield (number of the first line, bytes) with each block ending at a line end.

        Parameters
        ----------
        size
            Bytes of a block, about.
        quoted
            Line ends inside double quotes do not end a line (CSV).

        Raises
        ------
        UserError
            If a gzip file is cut short or damaged, or the file cannot be read.
        """
        number = 1
        rest = b""
        with self._open() as stream:
            while True:
                try:
                    data = stream.read(size)
                except EOFError as error:
                    raise UserError(
                        f"{self.path} is cut short after about {number:,} lines; download it again"
                    ) from error
                except (_GZIP_ERROR, OSError) as error:
                    raise UserError(
                        f"{self.path} is damaged near line {number:,}: {error}; download it again"
                    ) from error
                block = rest + data
                if not data:
                    if block:
                        yield number, block if block.endswith(b"\n") else block + b"\n"
                    return
                cut = block.rfind(b"\n") + 1
                if quoted:
                    # an odd number of quotes before a line end: it lies inside a quoted field
                    while cut and block.count(b'"', 0, cut) % 2:
                        cut = block.rfind(b"\n", 0, cut - 1) + 1
                block, rest = block[:cut], block[cut:]
                if len(rest) > 32 * size:
                    raise UserError(
                        f"{self.path} has no line end for {len(rest):,} bytes after line {number:,}; "
                        + ("a quote is never closed there" if quoted else "it is not a text file of lines")
                    )
                if block:
                    yield number, block
                    number += block.count(b"\n")

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            total = self.path.stat().st_size
            bar = tqdm(
                total=total, desc=self.path.name, unit="B", unit_scale=True, disable=not self.progress, leave=False
            )
            counted = _Counted(self.path, bar)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; check its permissions") from error
        stream: Any = counted
        with bar, counted:
            if self.path.suffix == ".gz":
                stream = igzip_threaded.open(counted, "rb", threads=1)
            else:
                stream = io.BufferedReader(counted, 1 << 20)
            with stream:
                yield stream
                # what is left over (nothing, unless the caller stopped early) belongs to the checksum too
                if not counted.closed and counted.read(1) == b"":
                    self.sha256 = counted.sha256.hexdigest()


def read_json_lines(source: Source, fields: Mapping[str, Any], bad: BadLines) -> Iterator[list[Any]]:
    """Yield the objects of a JSON-lines file in blocks, with only ``fields`` decoded.

    Parameters
    ----------
    source
        The file.
    fields
        Field name to its type; a field of type ``Any`` may be absent (it is None then).
    bad
        Where broken lines go.

    Yields
    ------
    list
        Objects with an attribute ``_0``, ``_1``, ... per field, in the order of ``fields``.
    """
    definition: list[Any] = []
    rename: dict[str, str] = {}
    for place, (name, kind) in enumerate(fields.items()):
        rename[f"_{place}"] = name
        definition.append((f"_{place}", kind, None) if kind is Any else (f"_{place}", kind))
    record = msgspec.defstruct("Record", definition, rename=rename, kw_only=True, gc=False)
    decoder = msgspec.json.Decoder(record)
    for number, block in source.blocks():
        try:
            yield decoder.decode_lines(block)
            continue
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        good = []
        for offset, line in enumerate(block.split(b"\n")):
            if not line.strip():
                continue
            try:
                good.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                repaired = _repair(line, record)
                if repaired is None:
                    bad.add(source.path.name, number + offset, str(error), line)
                else:
                    good.append(repaired)
        yield good


def _repair(line: bytes, record: type) -> Any:
    """Read a line the lenient way (bytes that are not UTF-8, lone surrogates, NaN), or return None."""
    try:
        value: Any = msgspec.json.decode(msgspec.json.encode(_clean_json(line)), type=record)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    # a replaced byte is harmless in a text, but an id with one is another id
    if any(isinstance(v, str) and "\ufffd" in v for v in (getattr(value, name) for name in _required(record))):
        return None
    return value


def _required(record: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(record) if field.required]


def _clean_json(line: bytes) -> Any:
    import json

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode("utf-8")
        if isinstance(value, list):
            return [clean(v) for v in value]
        if isinstance(value, dict):
            return {clean(k): clean(v) for k, v in value.items()}
        return value

    return clean(json.loads(line.decode("utf-8", "replace")))


def is_utf8(source: Source) -> bool:
    """Whether the whole file is valid UTF-8 (one quick pass)."""
    for _, block in source.blocks():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            return False
    return True


def read_delimited(
    source: Source,
    columns: Mapping[str, Any],
    bad: BadLines,
    *,
    header: bool,
    required: Mapping[str, str],
    separator: str = ",",
    quoted: bool = True,
    encoding: str = "utf-8",
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield (number of the first line, frame of the wanted columns) of a CSV or TSV file, block by block.

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
    separator, quoted, encoding
        Of the file; ``quoted`` False takes quotes as they are.

    Raises
    ------
    UserError
        If a column is missing, or the encoding is wrong.
    """
    names = list(columns) if not header else None
    file = source.path.name
    for number, block in source.blocks(quoted=quoted):
        if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
            try:
                block = block.decode(encoding).encode("utf-8")
            except (LookupError, UnicodeDecodeError) as error:
                raise UserError(f"{file} does not read as {encoding}: {error}; try another --encoding") from error
        if names is None:
            end = _first_record_end(block, quoted)
            head = block[:end].lstrip(b"\xef\xbb\xbf").decode("utf-8", "replace")
            names = [name.strip() for name in _split(head, separator, quoted)[0]]
            missing = [name for name in columns if name not in names]
            if missing:
                raise UserError(f"{file} has no column {', '.join(missing)}; its columns are {', '.join(names)}")
            number += block[:end].count(b"\n")
            block = block[end:]
            if not block:
                continue
        yield number, _frame(block, number, names, columns, required, separator, quoted, file, bad)


def _first_record_end(block: bytes, quoted: bool) -> int:
    end = block.find(b"\n") + 1
    while quoted and block.count(b'"', 0, end) % 2:
        following = block.find(b"\n", end) + 1
        if following == 0:
            break
        end = following
    return end


def _split(text: str, separator: str, quoted: bool) -> list[list[str]]:
    """Split records into fields with the standard library: slow, for headers and damaged blocks only."""
    import csv

    if not quoted:
        return [line.rstrip("\r").split(separator) for line in text.split("\n")[:-1]]
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


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
) -> pl.DataFrame:
    """Parse one block; whatever is odd about it sends it through the line-by-line path once."""
    quoted = quoted and b'"' in block
    try:
        # the one fault that the parser does not report; quoted blocks hold separators inside their fields
        plain = quoted or block.count(separator.encode()) == (len(names) - 1) * block.count(b"\n")
        if not plain:
            raise pl.exceptions.ComputeError("column count")
        frame = _parse(block, names, columns, separator, quoted)
        if not any(frame[name].null_count() for name in required):
            return frame
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        pass
    if quoted:
        good = _good_records(block, number, names, separator, file, bad)
    else:
        good = _good_lines(block, number, names, separator, file, bad)
    lines, kept = good
    if not kept:
        return pl.DataFrame(schema=dict(columns))
    frame = _parse(b"".join(kept), names, columns, separator, quoted)
    wrong = pl.Series([False]).new_from_index(0, len(frame))
    for name, expected in required.items():
        empty = frame[name].is_null()
        if empty.any():
            for row in (empty & ~wrong).arg_true().to_list():
                bad.add(file, lines[row], f"{name} is not {expected}", kept[row].rstrip(b"\r\n"))
            wrong = wrong | empty
    return frame.filter(~wrong)


def _good_lines(
    block: bytes, number: int, names: list[str], separator: str, file: str, bad: BadLines
) -> tuple[list[int], list[bytes]]:
    lines, kept = [], []
    for offset, line in enumerate(block.split(b"\n")[:-1]):
        if not line.strip():
            continue
        found = line.count(separator.encode()) + 1
        if found != len(names):
            bad.add(file, number + offset, f"{found} columns where {len(names)} are due", line)
            continue
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            bad.add(file, number + offset, "bytes that are not UTF-8 (another --encoding?)", line)
            continue
        lines.append(number + offset)
        kept.append(line + b"\n")
    return lines, kept


def _good_records(
    block: bytes, number: int, names: list[str], separator: str, file: str, bad: BadLines
) -> tuple[list[int], list[bytes]]:
    import csv

    lines, kept = [], []
    start = 0
    while start < len(block):
        end = start + _first_record_end(block[start : start + (1 << 20)], True)
        record, start = block[start:end], end
        here = number
        number += record.count(b"\n")
        if not record.strip():
            continue
        try:
            rows = list(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), delimiter=separator))
        except UnicodeDecodeError:
            bad.add(file, here, "bytes that are not UTF-8 (another --encoding?)", record)
            continue
        except csv.Error as error:
            bad.add(file, here, str(error), record)
            continue
        if len(rows) != 1 or len(rows[0]) != len(names):
            bad.add(file, here, f"{len(rows[0])} columns where {len(names)} are due", record)
            continue
        lines.append(here)
        kept.append(record)
    return lines, kept


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


def read_table(
    source: Source,
    columns: Mapping[str, Any],
    bad: BadLines,
    *,
    required: Mapping[str, str],
    encoding: str = "utf-8",
    separator: str | None = None,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield (number of the first row, frame of the wanted columns) of a csv, tsv, parquet, jsonl or xlsx file.

    The parameters are those of `read_delimited`; ``encoding`` and ``separator`` only matter to csv and tsv.

    Raises
    ------
    UserError
        If the kind of file is unknown, or a column is missing (it names those that are there).
    """
    kind = source.path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind in ("csv", "tsv", "txt"):
        separator = separator or ("," if kind == "csv" else "\t")
        yield from read_delimited(
            source, columns, bad, header=True, required=required, separator=separator, encoding=encoding
        )
        return
    if kind == "parquet":
        frames = _parquet_frames(source, list(columns))
    elif kind in ("jsonl", "json", "ndjson"):
        frames = _json_frames(source, list(columns), bad)
    elif kind in ("xlsx", "xls", "ods"):
        frames = _sheet_frames(source, list(columns))
    else:
        raise UserError(f"{source.path} is of no known kind; csv, tsv, parquet, jsonl and xlsx are read (also .gz)")
    for number, frame in frames:
        frame = frame.with_columns(
            # lists (categories, say) become one text; other types are cast, what does not fit becomes null
            pl.col(name).cast(pl.List(pl.String)).list.join(" ")
            if isinstance(frame[name].dtype, pl.List)
            else (pl.col(name) if _is_time(frame[name].dtype) else pl.col(name).cast(dtype, strict=False))
            for name, dtype in columns.items()
        )
        wrong = pl.Series([False]).new_from_index(0, len(frame))
        for name, expected in required.items():
            empty = frame[name].is_null()
            for row in (empty & ~wrong).arg_true().to_list():
                bad.add(source.path.name, number + row, f"{name} is not {expected}", str(frame.row(row)))
            wrong = wrong | empty
        yield number, frame.filter(~wrong) if wrong.any() else frame


def _is_time(dtype: Any) -> bool:
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)


def _parquet_frames(source: Source, names: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    try:
        table = pl.scan_parquet(source.path)
        found = table.collect_schema().names()
        _check_columns(source, names, found)
        rows = table.select(pl.len()).collect().item()
        for start in range(0, rows, 1 << 19):
            yield start + 1, table.select(names).slice(start, 1 << 19).collect()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{source.path} is no readable parquet file: {error}") from error


def _json_frames(source: Source, names: list[str], bad: BadLines) -> Iterator[tuple[int, pl.DataFrame]]:
    number = 1
    seen: set[str] = set()
    for records in read_json_lines(source, dict.fromkeys(names, Any), bad):
        columns = {}
        for place, name in enumerate(names):
            values = [getattr(record, f"_{place}") for record in records]
            if any(value is not None for value in values):
                seen.add(name)
            columns[name] = pl.Series(name, [_as_text(value) for value in values], dtype=pl.String)
        if number == 1 and records:
            absent = [name for name in names if name not in seen]
            if absent:
                first = next(source.blocks())[1].split(b"\n", 1)[0]
                try:
                    found = list(msgspec.json.decode(first))
                except msgspec.DecodeError:
                    found = []
                _check_columns(source, names, [*found, *seen])
        yield number, pl.DataFrame(columns)
        number += len(records)


def _sheet_frames(source: Source, names: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    import python_calamine

    try:
        rows = python_calamine.CalamineWorkbook.from_path(str(source.path)).get_sheet_by_index(0).iter_rows()
        header = [str(cell).strip() for cell in next(rows, [])]
    except (python_calamine.CalamineError, OSError) as error:
        raise UserError(f"{source.path} is no readable workbook: {error}") from error
    _check_columns(source, names, header)
    places = [header.index(name) for name in names]
    number = 2
    while True:
        block: list[list[str | None]] = [[] for _ in names]
        for row in rows:
            for cells, place in zip(block, places, strict=True):
                cells.append(_as_text(row[place]))
            if len(block[0]) == 1 << 16:
                break
        if not block[0]:
            return
        yield (
            number,
            pl.DataFrame({n: pl.Series(n, cells, dtype=pl.String) for n, cells in zip(names, block, strict=True)}),
        )
        number += len(block[0])


def _as_text(value: Any) -> str | None:
    """A cell as a CSV would have it: whole numbers without a fraction, times as ISO, nothing as null."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return " ".join(filter(None, map(_as_text, value)))
    return str(value)


def _check_columns(source: Source, wanted: list[str], found: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{source.path.name} has no column {', '.join(missing)}; its columns are {', '.join(found)}")


TIME_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
)


def parse_times(values: pl.Series, formats: tuple[str, ...] = TIME_FORMATS) -> pl.Series:
    """Times as seconds since 1970 (UTC), float64; numbers stay as they are; null where a value is no time.

    >>> parse_times(pl.Series(["12/1/2010 8:26", "2010-12-01 08:26:00", "1291191960", "soon"])).to_list()
    [1291191960.0, 1291191960.0, 1291191960.0, None]
    """
    if _is_time(values.dtype):
        return values.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    if values.dtype.is_numeric():
        return values.cast(pl.Float64)
    values = values.str.strip_chars()
    times = values.cast(pl.Float64, strict=False)
    for form in formats:
        if not times.null_count():
            break
        # only what is still missing is parsed
        text = values.to_frame("t").with_columns(pl.when(times.is_null()).then(pl.col("t")).alias("t"))["t"]
        text = text.str.replace("Z$|[+]00:?00$", "")
        parsed = text.str.to_datetime(form, strict=False, time_unit="us").dt.timestamp("us").cast(pl.Float64) / 1e6
        times = times.zip_with(times.is_not_null(), parsed)
    if times.null_count() and TIME_FORMATS[0] in formats:  # ISO dates without a time of day
        parsed = values.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.timestamp("us")
        times = times.zip_with(times.is_not_null(), parsed.cast(pl.Float64) / 1e6)
    return times.set(times.is_nan() | times.is_infinite(), None)
