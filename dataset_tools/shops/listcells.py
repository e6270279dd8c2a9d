"""Take apart cells that hold all items of an order.

| form | looks like |
|---|---|
| json | ``["A1", "B2"]`` or ``[{"sku": "A1", "quantity": 2}]`` |
| fields | ``sku:A1|quantity:2;sku:B2|quantity:1``, ``Product ID: 7, Product SKU: A1|Product ID: 8, Product SKU: B2`` |
| counted | ``2× Red lamp, 1× Blue lamp`` |
| plain | ``A1;B2``, with any separator |
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dataset_tools.sources import plain_name

Items = list[tuple[str, float]]  # id, quantity
_FIELD = re.compile(r"(?:^|[|;,])\s*([A-Za-z][A-Za-z_ ]{0,30}?)\s*:\s*")
_COUNTED = re.compile(r"(?:^|[,;|\n])\s*(\d+)\s*[x×X*]\s+")
_IDS = (
    "sku",
    "productsku",
    "itemsku",
    "productid",
    "itemid",
    "id",
    "code",
    "reference",
    "name",
    "productname",
    "title",
)
_COUNTS = ("quantity", "qty", "productqty", "productquantity", "count")
SEPARATORS = (";", "|", "\n", ",", " ")


@dataclass(frozen=True)
class ListForm:
    """A form of the table above; ``key`` is the separator of a plain one, or the field that holds the id."""

    kind: str
    key: str

    def __str__(self) -> str:
        return {
            "json": f"JSON lists (id: {self.key})",
            "fields": f"items with named fields (id: {self.key})",
            "counted": "items with their number",
            "plain": f"ids with {self.key!r} between",
        }[self.kind]


def read_cell(cell: str, form: ListForm) -> Items:
    """Ids and quantities of one cell; an empty list if nothing in it can be read."""
    if form.kind == "json":
        return [item for entry in _entries(cell) if (item := _pick(entry, form.key))]
    if form.kind == "fields":
        return [item for entry in _fields(cell) if (item := _pick(entry, form.key))]
    if form.kind == "counted":
        found = list(_COUNTED.finditer(cell))
        ends = [*(match.start() for match in found[1:]), len(cell)]
        pairs = [(cell[m.end() : end].strip(), float(m.group(1))) for m, end in zip(found, ends, strict=False)]
        return [pair for pair in pairs if pair[0]]
    return [(part.strip(), 1.0) for part in cell.split(form.key) if part.strip()]


def _entries(cell: str) -> list[dict[str, str]]:
    """The dicts of a JSON list; an id alone becomes ``{"id": ...}``."""
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return []
    found = found if isinstance(found, list) else [found]
    return [
        {plain_name(str(name)): _text(value) for name, value in entry.items()}
        if isinstance(entry, dict)
        else {"id": _text(entry)}
        for entry in found
    ]


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _fields(cell: str) -> list[dict[str, str]]:
    """Items of named fields; a name that comes again begins the next item."""
    items: list[dict[str, str]] = []
    found = list(_FIELD.finditer(cell))
    ends = [*(match.start() for match in found[1:]), len(cell)]
    for match, end in zip(found, ends, strict=False):
        name = plain_name(match.group(1))
        if not items or name in items[-1]:
            items.append({})
        items[-1][name] = cell[match.end() : end].strip()
    return items


def _pick(entry: dict[str, str], key: str) -> tuple[str, float] | None:
    if not entry.get(key):
        return None
    count = next((entry[name] for name in _COUNTS if entry.get(name)), "1")
    try:
        return entry[key], float(count.replace(",", "."))
    except ValueError:
        return entry[key], 1.0


def guess_form(cells: Sequence[str], known: Collection[str], always: bool = False) -> ListForm | None:
    """The form of the cells of a column, or None if each holds one id.

    Parameters
    ----------
    cells
        Some of them.
    known
        Ids of the products, which tell a list of ids from an id that holds a comma.
    always
        The column is one of lists by its name, so that a single item is a list too.
    """
    if not cells:
        return None
    if sum(cell.lstrip().startswith(("[", "{")) for cell in cells) > len(cells) / 2:
        return _best_key("json", [entry for cell in cells for entry in _entries(cell)], known)
    entries = [_fields(cell) for cell in cells]
    if sum(any(name in item for item in items for name in _IDS) for items in entries) > len(cells) / 2:
        return _best_key("fields", [item for items in entries for item in items], known)
    if sum(bool(_COUNTED.match(cell)) for cell in cells) > len(cells) / 2:
        return ListForm("counted", "")
    whole = sum(cell in known for cell in cells)
    best, most = None, whole
    for separator in SEPARATORS:
        parts = [part.strip() for cell in cells for part in cell.split(separator)]
        hits = sum(part in known for part in parts)
        # nearly all parts are ids, and there are more of them than cells
        if hits > most and hits > 0.8 * len(parts) and len(parts) > len(cells):
            best, most = ListForm("plain", separator), hits
    if best is None and always and not whole:
        shares = {s: sum(s in cell for cell in cells) for s in SEPARATORS[:4]}
        separator = max(shares, key=lambda s: shares[s])
        best = ListForm("plain", separator) if shares[separator] else None
    return best


def _best_key(kind: str, entries: Sequence[dict[str, str]], known: Collection[str]) -> ListForm | None:
    """The field whose values stand among the known ids most often; of equal ones the likeliest."""
    there = [key for key in _IDS if any(entry.get(key) for entry in entries)]
    if not there:
        return None
    hits = {key: sum(entry.get(key, "") in known for entry in entries) for key in there}
    return ListForm(kind, max(there, key=lambda key: (hits[key], -there.index(key))))
