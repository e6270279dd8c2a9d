"""Read a product table: which items it has, their texts, and how their ids meet those of the orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.cleaning import join_fields
from dataset_tools.common import UserError
from dataset_tools.ids import IdTable
from dataset_tools.shops.choose import ProductColumns
from dataset_tools.sources import BadLines, Source, read_table

MATCHES = ("exact", "number", "caseless")
_NUMBER = r"^0*(\d+)(?:[.,]0+)?$"


def canonical(ids: pl.Series, match: str) -> pl.Series:
    """What two ids have in common that mean the same item.

    Parameters
    ----------
    ids
        Text.
    match
        ``exact``, ``number`` (no leading zeros, no ``.0``) or ``caseless``.

    >>> canonical(pl.Series(["00012", "12.0", "A-7"]), "number").to_list()
    ['12', '12', 'A-7']
    """
    if match == "number":
        return ids.str.replace(_NUMBER, "$1")
    return ids.str.to_lowercase() if match == "caseless" else ids


def read_products(
    source: Source, columns: ProductColumns, options: dict[str, Any], bad: BadLines
) -> Iterator[pl.DataFrame]:
    """Yield frames of the columns as text, without blanks around it; what all rows of a product share is filled in.

    Parameters
    ----------
    source, columns
        The table.
    options
        Those of `dataset_tools.sources.read_table`.
    bad
        Where rows go that cannot be read, or lack an id.
    """
    wanted = [columns.item, *columns.texts, *([columns.group] if columns.group else [])]
    types: dict[str, Any] = dict.fromkeys(wanted, pl.String)
    required = {} if columns.group else {columns.item: "given"}
    frames: Iterator[pl.DataFrame] = (
        frame for _, frame in read_table(source, types, bad, required=required, **options)
    )
    if columns.group:
        # a product may lie in two blocks; and one without variants may have rows of pictures, which have no id
        whole = [*frames]
        texts = [pl.col(name).forward_fill().over(columns.group) for name in columns.texts]
        frames = iter([pl.concat(whole).with_columns(texts)] if whole else [])
    for raw in frames:
        frame = raw.with_columns(pl.col(columns.item).str.strip_chars().replace("", None))
        gone = frame[columns.item].null_count()
        if gone:
            source.note(f"{gone:,} rows have nothing in {columns.item!r} (pictures, or products without it): left out")
        yield frame.drop_nulls(columns.item)


def collect_texts(
    source: Source,
    columns: ProductColumns,
    options: dict[str, Any],
    item_ids: IdTable,
    match: str,
    bad: BadLines,
) -> tuple[np.ndarray, dict[int, str], dict[int, str], dict[str, int]]:
    """Texts of the items that the orders have.

    Returns
    -------
    known : array of shape (n_items,), bool
        Items of ``item_ids`` that are in the table.
    texts : dict
        Item code to text.
    names : dict
        Item code to the id as the table has it.
    counts : dict
        ``records``, and ``duplicate_records`` (of an id the first record counts).
    """
    known = np.zeros(len(item_ids), dtype=bool)
    texts: dict[int, str] = {}
    names: dict[int, str] = {}
    records = repeated = 0
    seen = IdTable()
    for frame in read_products(source, columns, options, bad):
        ids = canonical(frame[columns.item], match)
        records += len(frame)
        before = len(seen)
        seen.encode(ids)
        repeated += len(frame) - (len(seen) - before)
        codes = item_ids.encode(ids)
        fields = [frame[name].to_list() for name in columns.texts]
        for row in np.flatnonzero(codes < len(known)).tolist():
            code = int(codes[row])
            if not known[code]:
                known[code] = True
                texts[code] = join_fields(field[row] for field in fields)
                names[code] = frame[columns.item][row]
    known = np.concatenate([known, np.zeros(len(item_ids) - len(known), dtype=bool)])
    return known, texts, names, {"records": records, "duplicate_records": repeated}


def why_nothing_meets(
    orders: Source,
    order_ids: pl.Series,
    products: Source,
    head: pl.DataFrame,
    column: str,
    ids: pl.Series,
) -> str:
    """An id of each side, and what would make them meet.

    Parameters
    ----------
    orders, order_ids
        The order table, and the ids [n] of its items, each once.
    products, head, column
        The product table, its first rows, and the column of the id.
    ids
        All ids of the product table.
    """
    if not len(ids):
        return f"{products.path.name} holds no product; is it the right file?"
    shown = (
        f"{orders.path.name} has for example the item {order_ids[0]!r}, {products.path.name} in its column {column!r} "
        f"{ids[0]!r}"
    )
    for match, what in (("number", "as numbers"), ("caseless", "without regard to case")):
        meeting = canonical(order_ids, match).is_in(canonical(ids, match).unique().to_list()).sum()
        if meeting:
            return f"{shown}; {what} {meeting:,} of {len(order_ids):,} items would meet: pass --id_match {match}"
    for other in head.columns:
        values = head[other].drop_nulls().str.strip_chars()
        meeting = order_ids.is_in(values.unique().to_list()).sum()
        if meeting and other != column:
            return f"{shown}; its column {other!r} has {meeting:,} of the items: pass --item_id_col {other!r}"
    return f"{shown}; name the columns that hold the same ids by --item_col and --item_id_col"


def refuse_if_nothing_meets(known: np.ndarray, used: np.ndarray, explain: Callable[[], str], n: int) -> None:
    """Raise `UserError` if no interaction is with a known item."""
    if not known[used].any():
        raise UserError(
            f"no interaction is left: none of the {n:,} interactions is with an item that has a row in the item table; "
            + explain()
        )
