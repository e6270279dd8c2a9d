"""The item file of a dataset: what its fields are called, and which of its columns make the text of an item."""

from __future__ import annotations

import csv
import html
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset_tools.common import UserError

TEXT = "text"
TYPES = ("token", "token_seq", "float", "float_seq")
# words of column names that speak of text; RecBole's published sets are among them
TEXT_WORDS = {
    "title", "name", "text", "brand", "maker", "manufacturer", "category", "categories", "class", "genre", "genres",
    "description", "desc", "tag", "tags", "author", "authors", "artist", "artists", "publisher", "subject", "subjects",
    "keyword", "keywords", "summary", "headline", "abstract", "feature", "features", "color", "colour", "material",
}  # fmt: skip
# words that say that a column holds something else, whatever stands beside them
OTHER_WORDS = {"id", "ids", "code", "url", "urls", "link", "image", "img", "count", "num", "no", "rank", "date", "time"}
MEMBER = re.compile(r"""'([^']*)'|"([^"]*)\"""")
PRINTED_LIST = re.compile(rf"\[?\s*(?:{MEMBER.pattern})(?:\s*,\s*(?:{MEMBER.pattern}))*\s*\]?")  # 'Toys', 'Games'
LETTERS = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Fields:
    """Names and separators of a dataset's files, in RecBole's settings.

    Attributes
    ----------
    item_id
        ``ITEM_ID_FIELD``, the column of the item.
    field_separator, seq_separator
        Between the columns, and between the members of a ``token_seq``.
    text_cols
        Columns that make the text, in this order; None: the column ``text``, else those that look like text.
    """

    item_id: str = "item_id"
    field_separator: str = "\t"
    seq_separator: str = " "
    text_cols: tuple[str, ...] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Fields:
        """From RecBole's settings (a property file, or a `Config`'s dictionary); what is not there has its default.

        Raises
        ------
        UserError
            If a setting has another type than text, or for `text_cols` a list of names.
        """
        found: dict[str, Any] = {}
        for name, attribute in (
            ("ITEM_ID_FIELD", "item_id"),
            ("field_separator", "field_separator"),
            ("seq_separator", "seq_separator"),
        ):
            value = settings.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or not value:
                raise UserError(f"{name} must be a text, not {value!r}")
            found[attribute] = value
        return replace(cls(**found), text_cols=column_names(settings.get("text_cols")))


def column_names(value: object) -> tuple[str, ...] | None:
    """The value of ``text_cols``: None, one name or a list of names.

    Raises
    ------
    UserError
        If it is anything else, empty, or names a column twice.
    """
    if value is None or value == "":
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n for n in names):
        raise UserError(f"text_cols must be a list of columns such as [title, brand], not {value!r}")
    if len(set(names)) < len(names):
        raise UserError(f"text_cols names a column twice: {', '.join(names)}")
    return tuple(names)


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, split at line feeds only (a text may hold other Unicode line separators)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", errors="replace")
        bad = sum("\ufffd" in line for line in text.split("\n"))
        warn(f"{path} is not valid UTF-8 in {bad} lines; the bad bytes are read as U+FFFD")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def header_names(path: Path, fields: Fields) -> list[str]:
    """Names of the columns, from the first line."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
            line = file.readline().rstrip("\r\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return [field.split(":")[0].strip() for field in line.split(fields.field_separator)]


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {message}", file=sys.stderr)


@dataclass(frozen=True)
class ItemTable:
    """The cells of an item file that count.

    Attributes
    ----------
    source
        The file.
    columns
        The columns that made the texts, in order.
    chosen
        Whether they were chosen here, as looking like text.
    texts
        Text of each item by raw id, in the order of the file; empty where there is none.
    types
        RecBole's type of each column.
    """

    source: Path
    columns: tuple[str, ...]
    chosen: bool
    texts: dict[str, str]
    types: dict[str, str]


def read_item_table(path: Path, fields: Fields | None = None) -> ItemTable:
    """Read the texts of `NAME.text` or `NAME.item`.

    Raises
    ------
    UserError
        If the file cannot be read, is empty or malformed, lacks a column that is asked for, or has none that looks
        like text.
    """
    fields = fields or Fields()
    names, types, cells = _read_cells(path, fields)
    wanted = fields.text_cols or ((TEXT,) if TEXT in names else ())
    numbers = [name for name in wanted if types[name] == "float_seq"]
    if numbers:
        raise UserError(f"column {numbers[0]} of {path} holds vectors, not text; give them by --vectors")
    chosen = not wanted
    if chosen:
        wanted = _looking_like_text(path, names, types, fields.item_id, list(cells.values()))
    places = [(names.index(name), types[name]) for name in wanted]
    plain = wanted == (TEXT,)
    texts = {}
    for item, row in cells.items():
        parts = [row[at].strip() if plain else _clean(row[at], kind, fields.seq_separator) for at, kind in places]
        texts[item] = " ".join(part for part in parts if part)
    return ItemTable(path, wanted, chosen, texts, types)


def read_item_ids(path: Path, fields: Fields | None = None) -> list[str]:
    """Raw ids of an item file in its order, whether or not it holds texts.

    Raises
    ------
    UserError
        If the file cannot be read, is empty or malformed, or has no column of the item.
    """
    return list(_read_cells(path, fields or Fields())[2])


def _read_cells(path: Path, fields: Fields) -> tuple[list[str], dict[str, str], dict[str, list[str]]]:
    """Names of the columns, their types, and the cells of each item, by raw id in the order of the file."""
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty; it needs the header item_id:token<TAB>text:token_seq and a line an item")
    header = lines[0].split(fields.field_separator)
    names = [field.split(":")[0].strip() for field in header]
    if fields.item_id not in names:
        raise UserError(
            f"{path} has no column {fields.item_id}; its header holds: {', '.join(header)}; name the column of the item "
            "by --item_id_field (ITEM_ID_FIELD in a property file), and what stands between columns by --field_separator"
        )
    types = dict(zip(names, (field.partition(":")[2].strip() or "token" for field in header), strict=True))
    missing = [name for name in fields.text_cols or () if name not in names]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; text_cols can name: {', '.join(names)}")
    wanted = fields.text_cols or ((TEXT,) if TEXT in names else ())
    id_at = names.index(fields.item_id)
    wide = names.index(wanted[0]) if len(wanted) == 1 else None
    cells: dict[str, list[str]] = {}
    n_twice = 0
    for row in _rows(path, lines, fields.field_separator, len(names), wide):
        if row[id_at] in cells:
            n_twice += 1
            continue
        cells[row[id_at]] = row
    if n_twice:
        warn(f"{path} names {n_twice} items more than once; the first text of each is used")
    return names, types, cells


def _rows(path: Path, lines: list[str], separator: str, width: int, wide: int | None) -> Iterator[list[str]]:
    """The cells of each line but the first, as many as there are columns.

    `wide` is the place of a text that may hold tabs: the columns behind it keep their distance from the end.
    """
    split: Iterator[tuple[int, list[str]]]
    if separator == "\t" or len(separator) > 1:
        split = ((number, line.split(separator)) for number, line in enumerate(lines[1:], start=2) if line)
    else:  # quotes keep a separator within a cell, as in RecBole's reader
        reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator)
        next(reader)
        split = ((reader.line_num, cells) for cells in reader if cells)
    for number, cells in split:
        surplus = len(cells) - width
        if surplus > 0 and wide is not None:
            cells[wide : wide + surplus + 1] = [" ".join(cells[wide : wide + surplus + 1])]
        elif surplus > 0 or surplus < -1:
            raise UserError(f"{path} line {number} has {len(cells)} columns, the header {width}; mend or remove it")
        elif surplus < 0:
            cells.append("")
        yield cells


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def _looking_like_text(
    path: Path, names: Sequence[str], types: Mapping[str, str], item_id: str, rows: Sequence[Sequence[str]]
) -> tuple[str, ...]:
    """Columns whose name speaks of text and whose cells hold letters; where there are none, those of several words.

    Raises
    ------
    UserError
        If no column looks like text.
    """
    lettered: dict[str, float] = {}
    spaced: dict[str, float] = {}
    for at, name in enumerate(names):
        if name == item_id or types[name] not in ("token", "token_seq") or _words(name) & OTHER_WORDS:
            continue
        filled = [row[at] for row in rows if row[at].strip()]
        if filled:
            lettered[name] = sum(LETTERS.search(cell) is not None for cell in filled) / len(filled)
            spaced[name] = sum(len(cell.split()) > 1 for cell in filled) / len(filled)
    named = [name for name, share in lettered.items() if _words(name) & TEXT_WORDS and share >= 0.5]
    found = named or [name for name, share in spaced.items() if share >= 0.5 and lettered[name] >= 0.5]
    if not found:
        raise UserError(
            f"{path} has no column text, and none that looks like text; name some by --text_cols (text_cols in a "
            f"property file) of: {', '.join(name for name in names if name != item_id) or 'no other column'}"
        )
    return tuple(found)


def _clean(cell: str, kind: str, separator: str) -> str:
    """A cell as a person would write it: entities resolved, a list without its quotes and brackets."""
    cell = cell.strip()
    if PRINTED_LIST.fullmatch(cell):
        cell = ", ".join(single or double for single, double in MEMBER.findall(cell))
    elif len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        cell = cell[1:-1].replace('""', '"')
    elif kind == "token_seq" and separator.strip():
        cell = ", ".join(part.strip() for part in cell.split(separator) if part.strip())
    if "&" in cell:
        cell = html.unescape(cell)
    return " ".join(cell.split())
