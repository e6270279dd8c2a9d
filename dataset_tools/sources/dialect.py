"""Find out how a text file is written: its encoding, its line ends, and what separates its fields."""

from __future__ import annotations

import codecs
import re

from dataset_tools.sources.lines import Source, is_utf8, records

SEPARATORS = ",;\t|"
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_NAMES = {"\t": "tab"}
_SAID = re.compile(rb'^"?sep=(.)"?\r?\n')


def guess_encoding(source: Source) -> str:
    """Encoding of a file: by its byte order mark, by zero bytes, UTF-8 if all of it is, and else Windows-1252.

    It is set on the source, and said unless it is UTF-8.
    """
    head = source.head()
    why = "by its byte order mark"
    found = next((name for mark, name in _BOMS.items() if head.startswith(mark)), None)
    if found is None and head:
        even, odd = head[::2].count(0) / len(head), head[1::2].count(0) / len(head)
        if max(even, odd) > 0.2:  # Latin letters have a zero byte each in UTF-16
            found, why = ("utf-16-le" if odd > even else "utf-16-be"), "by its zero bytes"
    if found in (None, "utf-8"):
        source.old_line_ends = b"\r" in head and b"\n" not in head
    if found is None:
        found, why = ("utf-8", "") if is_utf8(source) else ("cp1252", "as it is not UTF-8")
        if found == "cp1252" and not _decodes(source, found):
            found = "latin-1"
    source.encoding = found
    if found != "utf-8":
        source.note(f"read as {found} {why} (--encoding says otherwise)")
    return found


def _decodes(source: Source, encoding: str) -> bool:
    for _, block in source.blocks():
        try:
            block.decode(encoding)
        except UnicodeDecodeError:
            return False
    return True


def guess_separator(source: Source, quoted: bool = True) -> tuple[str, int]:
    """What separates the fields, and how many lines of the file only say so (``sep=;``, as spreadsheets write it).

    The separator is the one that splits the first records into equally many fields, and into most. Where none does,
    it is the one that the name of the file says.
    """
    usual = "," if ".csv" in source.path.name else "\t"
    number, block = next(source.blocks(1 << 16, quoted), (1, b""))
    said = _SAID.match(block)
    if said:
        separator = said.group(1).decode()
        source.note(f"fields are separated by {_named(separator)}, as its first line says (--separator)")
        return separator, 1
    rows = [row for _, row in zip(range(20), (r for _, r in records(block, number, quoted)), strict=False)]
    if quoted:
        rows = [re.sub(rb'"[^"]*"', b"", row) for row in rows]
    best, most = usual, 0
    for separator in dict.fromkeys(usual + SEPARATORS):
        counts = [row.count(separator.encode()) for row in rows]
        # a wrong record or two do not matter
        even = counts and sum(count == counts[0] for count in counts) >= 0.8 * len(counts)
        if even and counts[0] > most:
            best, most = separator, counts[0]
    if best != usual:
        source.note(f"fields are separated by {_named(best)} (--separator says otherwise)")
    return best, 0


def _named(separator: str) -> str:
    return _NAMES.get(separator, repr(separator))
