"""Read dumps in line-aligned blocks, in bounded memory, with a checksum and a progress bar on the way.

Every reader of the dataset tools goes through `Source`: it opens plain and gzip files alike (gzip by isal, inflating in
a second thread), computes the SHA-256 of the file's own bytes while they pass, and hands out blocks that end at a line
end. Lines that cannot be read go to a `BadLines`, which shows the first few and stops the run past a limit.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from isal import igzip_threaded, isal_zlib
from tqdm import tqdm

from dataset_tools.common import UserError

_GZIP_ERROR: Any = isal_zlib.error
Table = tuple[Sequence[int], pl.DataFrame]
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
        if self.total <= self.shown and self.limit:
            text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
            text = text if len(text) <= 100 else text[:97] + "..."
            print(f"skipped {file}, line {number}: {reason}: {text!r}", file=sys.stderr)
        if self.limit == 0:
            raise UserError(f"line {number} of {file} cannot be read ({reason}); mend or remove it")
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
                    after = f"after line {number - 1:,} or somewhat later" if number > 1 else "near its beginning"
                    raise UserError(f"{self.path} is cut short {after}; download it again") from error
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


def read_json_lines(
    source: Source, fields: Mapping[str, Any], bad: BadLines
) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """Yield (line numbers, objects) of a JSON-lines file in blocks, with only ``fields`` decoded.

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
    tuple of a sequence of int and a list, equally long
        The objects have an attribute ``_0``, ``_1``, ... per field, in the order of ``fields``.
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
            records = decoder.decode_lines(block)
            if len(records) == block.count(b"\n"):  # no blank lines
                yield range(number, number + len(records)), records
                continue
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        if number == 1:
            _check_fields(source, block, record)
        lines, good = [], []
        for here, line in enumerate(block.split(b"\n"), start=number):
            if not line.strip():
                continue
            try:
                found = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                found = _repair(line, record)
                if found is None:
                    bad.add(source.path.name, here, str(error), line)
                    continue
            lines.append(here)
            good.append(found)
        yield lines, good


def _check_fields(source: Source, block: bytes, record: type) -> None:
    """Raise `UserError` if a required field is in none of the first objects: another kind of file, not broken lines."""
    found: dict[str, None] = {}
    for line in block.split(b"\n", 101)[:100]:
        try:
            found.update(dict.fromkeys(msgspec.json.decode(line, type=dict)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    if found:
        names = [f.encode_name for f in msgspec.structs.fields(record) if f.required]
        _check_columns(source, names, list(found), "field")


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
            first = next(_records(block, number, quoted), (number, b"\n"))[1]
            end = block.index(first) + len(first)
            head = first.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
            names = [name.strip() for name in _split(head, separator, quoted)]
            _check_columns(source, list(columns), names)
            number += block[:end].count(b"\n")
            block = block[end:]
            if not block:
                continue
        yield _frame(block, number, names, columns, required, separator, quoted, file, bad)


def _records(block: bytes, number: int, quoted: bool) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes) of each record that is not blank; a line end within quotes does not end one."""
    data = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    lines = np.arange(len(ends))
    if quoted:
        outside = np.searchsorted(np.flatnonzero(data == ord('"')), ends) % 2 == 0
        outside[-1:] = True
        ends, lines = ends[outside], lines[outside]
    start, here = 0, number
    for end, line in zip((ends + 1).tolist(), lines.tolist(), strict=True):
        record = block[start:end]
        if record.strip():
            yield here, record
        start, here = end, number + line + 1


def _split(record: str, separator: str, quoted: bool) -> list[str]:
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
                lines = [here for here, _ in _records(block, number, quoted)]
                if len(frame) == len(lines):
                    return lines, frame
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        pass
    lines, kept = [], []
    for here, record in _records(block, number, quoted):
        try:
            found = len(_split(record.decode("utf-8"), separator, quoted))
        except UnicodeDecodeError:
            bad.add(file, here, "bytes that are not UTF-8 (another --encoding?)", record)
            continue
        except csv.Error as error:
            bad.add(file, here, str(error), record)
            continue
        if found != len(names):
            bad.add(file, here, f"{found} columns where {len(names)} are due", record.rstrip(b"\r\n"))
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
    return _drop_incomplete(lines, frame, required, file, bad, kept)


def _drop_incomplete(
    lines: Sequence[int],
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


def read_table(
    source: Source,
    columns: Mapping[str, Any],
    bad: BadLines,
    *,
    required: Mapping[str, str],
    encoding: str = "utf-8",
    separator: str | None = None,
) -> Iterator[Table]:
    """Yield (number of each row, frame of the wanted columns) of a csv, tsv, parquet, jsonl or xlsx file.

    The numbers are lines of the file, in a workbook and a parquet file rows.

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
    for lines, frame in frames:
        frame = frame.with_columns(
            # lists (categories, say) become one text; other types are cast, what does not fit becomes null
            pl.col(name).cast(pl.List(pl.String)).list.join(" ")
            if isinstance(frame[name].dtype, pl.List)
            else (pl.col(name) if _is_time(frame[name].dtype) else pl.col(name).cast(dtype, strict=False))
            for name, dtype in columns.items()
        )
        yield _drop_incomplete(lines, frame, required, source.path.name, bad)


def _is_time(dtype: Any) -> bool:
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)


def _parquet_frames(source: Source, names: list[str]) -> Iterator[Table]:
    try:
        table = pl.scan_parquet(source.path)
        found = table.collect_schema().names()
        _check_columns(source, names, found)
        rows = table.select(pl.len()).collect().item()
        for start in range(0, rows, 1 << 19):
            frame = table.select(names).slice(start, 1 << 19).collect()
            yield range(start + 1, start + 1 + len(frame)), frame
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{source.path} is no readable parquet file: {error}") from error


def _json_frames(source: Source, names: list[str], bad: BadLines) -> Iterator[Table]:
    seen: set[str] = set()
    for block, (lines, records) in enumerate(read_json_lines(source, dict.fromkeys(names, Any), bad)):
        columns = {}
        for place, name in enumerate(names):
            values = [getattr(record, f"_{place}") for record in records]
            if any(value is not None for value in values):
                seen.add(name)
            columns[name] = pl.Series(name, [_as_text(value) for value in values], dtype=pl.String)
        if block == 0 and records:
            absent = [name for name in names if name not in seen]
            if absent:
                first = next(source.blocks())[1].split(b"\n", 1)[0]
                try:
                    found = list(msgspec.json.decode(first))
                except msgspec.DecodeError:
                    found = []
                _check_columns(source, names, [*found, *seen])
        yield lines, pl.DataFrame(columns)


def _sheet_frames(source: Source, names: list[str]) -> Iterator[Table]:
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
        frame = pl.DataFrame({n: pl.Series(n, cells, dtype=pl.String) for n, cells in zip(names, block, strict=True)})
        yield range(number, number + len(frame)), frame
        number += len(frame)


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


def _check_columns(source: Source, wanted: list[str], found: list[str], what: str = "column") -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{source.path.name} has no {what} {', '.join(missing)}; its {what}s are {', '.join(found)}")


ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
AMERICAN_FORMATS = ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S")
OFFSET = r"(:\d\d(?:\.\d+)?) ?(?:Z|([+-]\d\d):?(\d\d)?)$"


def parse_times(values: pl.Series, formats: Sequence[str] = (*ISO_FORMATS, *AMERICAN_FORMATS)) -> pl.Series:
    """Times as seconds since 1970 (UTC), float64; numbers stay as they are; null where a value is no time.

    A time of day may carry an offset (Z, +02:00, +0200, +02); without one it is UTC.

    >>> parse_times(pl.Series(["12/1/2010 8:26", "2010-12-01T09:26:00+01:00", "1291191960", "soon"])).to_list()
    [1291191960.0, 1291191960.0, 1291191960.0, None]
    """
    if _is_time(values.dtype):
        return values.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    if values.dtype.is_numeric():
        times = values.cast(pl.Float64)
        return times.set(times.is_nan() | times.is_infinite(), None)
    values = values.str.strip_chars()
    times = values.cast(pl.Float64, strict=False)
    times = times.set(times.is_nan() | times.is_infinite(), None)
    for form in formats:
        if not times.null_count():
            break
        # only what is still missing is parsed
        text = values.to_frame("t").select(pl.when(times.is_null()).then(pl.col("t")).alias("t"))["t"]
        seconds: Any = 0.0
        if "%z" not in form and "%H" in form:
            parts = text.str.extract_groups(OFFSET).struct.unnest().cast({"2": pl.Float64, "3": pl.Float64})
            minutes = parts["3"].fill_null(0.0) * (parts["2"] < 0).replace_strict({True: -60.0, False: 60.0})
            seconds = (parts["2"] * 3600 + minutes).fill_null(0.0)
            text = text.str.replace(OFFSET, "$1")
        stamps = text.str.to_datetime(form, strict=False, time_unit="us").dt.timestamp("us").cast(pl.Float64) / 1e6
        times = times.zip_with(times.is_not_null(), stamps - seconds)
    return times


def with_times(
    table: Table,
    column: str,
    source: Source,
    bad: BadLines,
    formats: Sequence[str] = (*ISO_FORMATS, *AMERICAN_FORMATS),
    reason: str = "is not a time",
) -> Table:
    """Add the column ``_time`` (see `parse_times`) to a table of `read_table`; rows whose value is no time go to bad."""
    lines, frame = table
    times = parse_times(frame[column], formats)
    for row in times.is_null().arg_true().to_list():
        bad.add(source.path.name, lines[row], f"{column} {reason}", str(frame[column][row]))
    table = lines, frame.with_columns(times.alias("_time"))
    return keep_rows(table, times.is_not_null().to_numpy()) if times.null_count() else table
