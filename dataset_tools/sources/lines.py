"""Read a file in blocks that end at a line end: any encoding, plain or gzip, in bounded memory, with a checksum.

Every reader of the dataset tools goes through `Source`. It inflates gzip by isal in a second thread, computes the
SHA-256 of the file's own bytes while they pass, and hands out blocks of UTF-8. Lines that cannot be read go to a
`BadLines`, which shows the first few and stops the run past a limit.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isal import igzip_threaded, isal_zlib
from tqdm import tqdm

from dataset_tools.common import UserError

_GZIP_ERROR: Any = isal_zlib.error
BLOCK = 8 << 20  # bytes; larger blocks read no faster and hold more memory
LONGEST_RECORD = 64 << 20  # bytes; a line of that length is no line
_UTF8 = ("utf-8", "utf8", "utf-8-sig", "ascii")


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

    def add(self, file: str, number: int | str, reason: str, line: str | bytes) -> None:
        """Count one bad line; its number is that of the file, in a workbook of several sheets ``sheet!row``.

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


class _Recoded:
    """A stream of another encoding as UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def read(self, size: int) -> bytes:
        while True:
            data = self._stream.read(size)
            text = self._decoder.decode(data, final=not data)
            if text or not data:
                return text.encode("utf-8")


class Source:
    """A dump on disk, plain or gzip.

    Parameters
    ----------
    path
        The file; ``.gz`` at the end of the name means gzip.
    progress
        Show a bar while it is read.
    quiet
        Do not print what is taken from the file for what (see `note`).

    Attributes
    ----------
    encoding : str or None
        Of the text; None until somebody says or guesses it, and UTF-8 then.
    old_line_ends : bool
        Lines end with a carriage return alone, as spreadsheets on old Macintoshes wrote them.
    sheets : list of str or None
        Sheets of a workbook to read; None for all with the header of the first.
    notes : list of str
        What was taken for what, a sentence each.
    """

    def __init__(self, path: str | Path, progress: bool = False, quiet: bool = False) -> None:
        self.path = Path(path)
        self.progress = progress
        self.quiet = quiet
        self.encoding: str | None = None
        self.old_line_ends = False
        self.sheets: list[str] | None = None
        self.notes: list[str] = []
        self.sha256: str | None = None
        if not self.path.is_file():
            raise UserError(f"there is no file {self.path}; check the path")

    def note(self, sentence: str) -> None:
        """Say once what was taken for what."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            if not self.quiet:
                print(f"{self.path.name}: {sentence}", file=sys.stderr)

    def record(self) -> dict[str, Any]:
        """Name, size, checksum and what was guessed, for the provenance file."""
        if self.sha256 is None:
            digest = hashlib.sha256()
            with open(self.path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            self.sha256 = digest.hexdigest()
        record = {"file": self.path.name, "bytes": self.path.stat().st_size, "sha256": self.sha256}
        return {**record, "read_as": self.notes} if self.notes else record

    def head(self, size: int = 1 << 16) -> bytes:
        """The first bytes as they are, inflated."""
        with self._guarded(1), self._open() as stream:
            return bytes(stream.read(size))

    def blocks(self, size: int = BLOCK, quoted: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield (number of the first line, UTF-8 bytes) with each block ending at a line end.

        Parameters
        ----------
        size
            Bytes of a block, about.
        quoted
            Line ends inside double quotes do not end a line (CSV).

        Raises
        ------
        UserError
            If a gzip file is cut short or damaged, the file cannot be read or decoded, or a quote is never closed.
        """
        rest: list[bytes] = []
        number, inside, first = 1, False, True
        with self._open() as raw:
            stream: Any = raw
            if self.encoding and self.encoding.lower().replace("_", "-") not in _UTF8:
                try:
                    stream = _Recoded(raw, self.encoding)
                except LookupError as error:
                    raise UserError(f"there is no encoding {self.encoding}; try another --encoding") from error
            while True:
                with self._guarded(number):
                    data = stream.read(size)
                if self.old_line_ends:
                    data = data.replace(b"\r", b"\n")
                if first:
                    data, first = data.removeprefix(codecs.BOM_UTF8), not data
                if not data:
                    block = b"".join(rest)
                    if block and inside:
                        self._refuse_open_quote(block, number)
                    if block:
                        yield number, block if block.endswith(b"\n") else block + b"\n"
                    return
                if quoted:
                    cut, inside = _last_end_outside(data, inside)
                else:
                    cut = data.rfind(b"\n") + 1
                if not cut:
                    rest.append(data)
                    length = sum(map(len, rest))
                    if length > max(LONGEST_RECORD, size):
                        if inside:
                            self._refuse_open_quote(b"".join(rest), number)
                        raise UserError(
                            f"{self.path} has no line end for {length:,} bytes after line {number:,}; "
                            "it is not a text file of lines"
                        )
                    continue
                block = b"".join([*rest, data[:cut]])
                rest = [data[cut:]] if cut < len(data) else []
                yield number, block
                number += block.count(b"\n")

    def _refuse_open_quote(self, rest: bytes, number: int) -> None:
        """Name the line where the quote was opened that nothing closes."""
        raise UserError(
            f"{self.path} has a quote that is opened in line {self._line_of_open_quote(rest, number):,} and never "
            'closed; close or remove it, or pass --no_quotes if the file takes " as any other character'
        )

    def _line_of_open_quote(self, rest: bytes, number: int) -> int:
        """First quote at the start of a field that is not closed before the end of one.

        Quotes are counted in pairs while the file is read, so a single one turns all behind it inside out, and the
        pair that is left over stands at the end. This looks at what stands beside each quote instead.
        """
        for here, block in self.blocks(LONGEST_RECORD):
            place = 0
            while opened := _OPENING.search(block, place):
                closed = _CLOSING.match(block, opened.end())
                if closed is None:
                    break
                if closed.group(1) not in _AFTER_A_QUOTE:
                    return here + block.count(b"\n", 0, opened.end() - 1)
                place = closed.end() - len(closed.group(1))
        return number + rest.count(b"\n", 0, rest.rfind(b'"'))

    @contextmanager
    def _guarded(self, number: int) -> Iterator[None]:
        """Turn what goes wrong while reading into one sentence."""
        try:
            yield
        except EOFError as error:
            after = f"after line {number - 1:,} or somewhat later" if number > 1 else "near its beginning"
            raise UserError(f"{self.path} is cut short {after}; download it again") from error
        except UnicodeError as error:
            raise UserError(
                f"{self.path.name} does not read as {self.encoding}: {error}; try another --encoding"
            ) from error
        except (_GZIP_ERROR, OSError) as error:
            raise UserError(f"{self.path} is damaged near line {number:,}: {error}; download it again") from error

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


_OPENING = re.compile(rb'(?:^|[,;\t|\n])"')
_CLOSING = re.compile(rb'(?:[^"]++|"")*+"(.?)', re.DOTALL)
_AFTER_A_QUOTE = (b"", b",", b";", b"\t", b"|", b"\r", b"\n", b" ")


def _last_end_outside(data: bytes, inside: bool) -> tuple[int, bool]:
    """Where the last record of a piece ends, 0 for nowhere, and whether the piece ends inside a quoted field.

    Each quote is looked at once, so that a quote that is never closed costs no more than any other.

    Parameters
    ----------
    data
        Bytes of a CSV file.
    inside
        The piece begins inside a quoted field.
    """
    end_inside = inside ^ bool(data.count(b'"') % 2)
    within, stop = end_inside, len(data)
    while stop:
        quote = data.rfind(b'"', 0, stop)
        if not within:
            line_end = data.rfind(b"\n", quote + 1, stop)
            if line_end >= 0:
                return line_end + 1, end_inside
        if quote < 0:
            return 0, end_inside
        within, stop = not within, quote
    return 0, end_inside


_RECORD = re.compile(rb"\S[^\n]*")
# a quoted field, or anything but a line end; the last field may lack its closing quote
_QUOTED_RECORD = re.compile(rb'(?:"[^"]*(?:"|\Z)|[^\s"])(?:[^"\n]++|"[^"]*(?:"|\Z))*+')


def records(block: bytes, number: int, quoted: bool) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes) of each record that is not blank; a line end within quotes does not end one."""
    place = 0
    for found in (_QUOTED_RECORD if quoted else _RECORD).finditer(block):
        start = max(place, block.rfind(b"\n", place, found.start()) + 1)
        number += block.count(b"\n", place, start)
        end = min(found.end() + 1, len(block))
        yield number, block[start:end]
        number += block.count(b"\n", start, end)
        place = end


def is_utf8(source: Source) -> bool:
    """Whether the whole file is valid UTF-8 (one quick pass)."""
    for _, block in source.blocks():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            return False
    return True
