"""Read workbooks (xlsx, xls, ods): every sheet that has the header of the first one, or those that are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from dataset_tools.common import UserError
from dataset_tools.sources.columns import match_columns, plain_name, unique_names
from dataset_tools.sources.delimited import Lines, Table
from dataset_tools.sources.lines import Source

ROWS = 1 << 16


def as_text(value: Any) -> str | None:
    """A cell as a CSV would have it: whole numbers without a fraction, times as ISO, nothing as null."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return " ".join(filter(None, map(as_text, value)))
    return str(value)


def _sheets(source: Source) -> list[tuple[str, list[str], Any, int]]:
    """Name, header, remaining rows, and number of the next row of each sheet that holds anything and is to be read."""
    import python_calamine

    try:
        book = python_calamine.CalamineWorkbook.from_path(str(source.path))
        names = list(book.sheet_names)
        unknown = [name for name in source.sheets or [] if name not in names]
        if unknown:
            raise UserError(f"{source.path.name} has no sheet {unknown[0]!r}; its sheets are {', '.join(names)}")
        found: list[tuple[str, list[str], Any, int]] = []
        empty, other = [], []
        for name in names:
            if source.sheets is not None and name not in source.sheets:
                other.append(f"{name!r} (not in --sheet)")
                continue
            rows, number, header = iter(book.get_sheet_by_name(name).iter_rows()), 0, []
            for row in rows:
                number += 1
                if any(cell not in ("", None) for cell in row):
                    header = unique_names(str(cell) for cell in row)
                    break
            if not header:
                empty.append(f"{name!r} (empty)")
            elif found and list(map(plain_name, header)) != list(map(plain_name, found[0][1])):
                other.append(f"{name!r} (other columns: {', '.join(header[:6])})")
            else:
                found.append((name, header, rows, number + 1))
    except (python_calamine.CalamineError, OSError) as error:
        raise UserError(f"{source.path} is no readable workbook: {error}") from error
    if not found:
        raise UserError(f"{source.path} holds no table in its sheets {', '.join(names)}; is it the right file?")
    if len(names) > 1:
        left = "; left out: " + ", ".join(other + empty) if other or empty else ""
        read = ", ".join(repr(sheet[0]) for sheet in found)
        source.note(f"read {'sheet' if len(found) == 1 else 'sheets'} {read}{left} (--sheet chooses)")
    return found


def sheet_header(source: Source, rows: int) -> tuple[list[str], list[list[str | None]]]:
    """Column names of a workbook, and as text the cells of its first rows."""
    _, header, cells, _ = _sheets(source)[0]
    return header, [list(map(as_text, row)) for _, row in zip(range(rows), cells, strict=False)]


def sheet_frames(source: Source, names: list[str]) -> Iterator[Table]:
    """Yield (number of each row, frame of the columns as text) of the sheets, one sheet after the other."""
    sheets = _sheets(source)
    for title, header, rows, number in sheets:
        matches = match_columns(source, names, header)
        places = [header.index(matches[name]) for name in names]
        while True:
            block: list[list[str | None]] = [[] for _ in names]
            numbers: list[int] = []
            for row in rows:
                number += 1
                if all(cell in ("", None) for cell in row):
                    continue  # a blank row, as a blank line of a csv
                numbers.append(number - 1)
                for cells, place in zip(block, places, strict=True):
                    cells.append(as_text(row[place]) if place < len(row) else None)
                if len(numbers) == ROWS:
                    break
            if not numbers:
                break
            lines: Lines = numbers if len(sheets) == 1 else [f"{title}!{n}" for n in numbers]
            frame = {n: pl.Series(n, cells, dtype=pl.String) for n, cells in zip(names, block, strict=True)}
            yield lines, pl.DataFrame(frame)
