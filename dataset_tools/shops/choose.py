"""Choose the columns of an order table and a product table: what flags say, else what a layout and the values say."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from dataset_tools.common import UserError
from dataset_tools.shops.layouts import Layout, Names
from dataset_tools.shops.listcells import ListForm, guess_form
from dataset_tools.sources import Source, find_column, plain_name

NONE = "none"  # as a flag: there is no such column


@dataclass
class Columns:
    """Columns of an order table; None where there is none.

    Attributes
    ----------
    items
        The column of the item; more than one where an order has a row of columns.
    form
        How a cell holds several items, None if it holds one.
    """

    user: str
    items: list[str]
    time: str | None = None
    clock: str | None = None
    order: str | None = None
    quantity: str | None = None
    refunded: tuple[str, ...] = ()
    status: str | None = None
    cancelled: str | None = None
    rating: str | None = None
    title: str | None = None
    form: ListForm | None = None

    def all(self) -> list[str]:
        """Every column that is read, once."""
        single = (self.user, self.time, self.order, self.quantity, self.status, self.cancelled, self.rating, self.title)
        return list(dict.fromkeys(name for name in (*single, self.clock, *self.refunded, *self.items) if name))


@dataclass
class ProductColumns:
    """Columns of a product table; ``group`` is what all rows of one product share, None if each has a row of its own."""

    item: str
    texts: list[str] = field(default_factory=list)
    group: str | None = None


@dataclass(frozen=True)
class Wishes:
    """What flags say about columns; None to guess, ``none`` for no such column (of those that may be absent)."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    order: str | None = None
    quantity: str | None = None
    status: str | None = None
    rating: str | None = None
    product: str | None = None
    texts: tuple[str, ...] | None = None
    list_separator: str | None = None


def choose_columns(
    orders: Source,
    head: pl.DataFrame,
    products: Source | None,
    product_head: pl.DataFrame | None,
    layout: Layout,
    wishes: Wishes,
) -> tuple[Columns, ProductColumns | None]:
    """Choose all columns, and say in a line for each file which were guessed.

    Parameters
    ----------
    orders, head
        The order table, and its first rows as text.
    products, product_head
        The same of the products; None if the orders name the items.
    layout
        Where the columns may stand.
    wishes
        What flags say.

    Raises
    ------
    UserError
        If there is no column for the user, the item or the time. It names the columns of the file.
    """
    names = head.columns
    user = _wished(orders, wishes.user, names) or _first(head, layout.user)
    if user is None:
        raise _no_column(orders, "the user", "--user_col", names, layout)
    item_candidates = _item_candidates(head, layout)
    if wishes.item:
        item_candidates = [[_wished(orders, wishes.item, names) or ""]]
    if not item_candidates:
        raise _no_column(orders, "the item", "--item_col", names, layout)
    time = None
    if wishes.time != NONE:
        time = _wished(orders, wishes.time, names) or _first(head, layout.time)
        if time is None:
            raise _no_column(orders, "the time", "--time_col (or --no_time, if the rows are in order)", names, layout)
    items, product = item_candidates[0], None
    if products is not None and product_head is not None:
        items, product = _pair(products, head, product_head, item_candidates, layout, wishes)
    known = (
        set(product_head[product.item].drop_nulls().str.strip_chars())
        if product and product_head is not None
        else set()
    )
    form = None
    if wishes.list_separator != NONE:
        form = ListForm("plain", wishes.list_separator) if wishes.list_separator else _form(head, items, known, layout)
    title = None if products else _first(head, layout.title)
    columns = Columns(
        user=user,
        items=items,
        time=time,
        clock=None if wishes.time or not time else _first(head, layout.clock),
        order=_optional(orders, wishes.order, head, layout.order, taken=(user, time, *items)),
        quantity=_optional(orders, wishes.quantity, head, layout.quantity, taken=(user, time, *items)),
        status=_optional(orders, wishes.status, head, layout.status, taken=(user, time, *items)),
        refunded=tuple(c for names in layout.refunded if (c := _first(head, names))),
        cancelled=_first(head, layout.cancelled),
        rating=_wished(orders, wishes.rating, names),
        title=title if title else (items[0] if not products else None),
        form=form,
    )
    _say(orders, products, columns, product, wishes)
    return columns, product


def _wished(source: Source, name: str | None, names: Sequence[str]) -> str | None:
    """The column that a flag names, as the file spells it."""
    if name is None or name == NONE:
        return None
    found = find_column(name, names)
    if found is None:
        raise UserError(f"{source.path.name} has no column {name}; its columns are {', '.join(names)}")
    if found != name:
        source.note(f"{name} is its column {found!r}")
    return found


def _first(head: pl.DataFrame, candidates: Names, taken: Sequence[str | None] = ()) -> str | None:
    """The likeliest column that is there, rather one that holds something than an empty one."""
    there = [c for name in candidates if (c := find_column(name, head.columns)) and c not in taken]
    filled = [column for column in there if _values(head, column, 1)]
    found = filled or there
    return found[0] if found else None


def _values(head: pl.DataFrame, column: str, limit: int = 500) -> list[str]:
    values = head[column].drop_nulls().str.strip_chars()
    return values.filter(values != "").head(limit).to_list()


def _optional(
    source: Source, wish: str | None, head: pl.DataFrame, candidates: Names, taken: Sequence[str | None]
) -> str | None:
    if wish is not None:
        return _wished(source, wish, head.columns)
    return _first(head, candidates, taken)


def _item_candidates(head: pl.DataFrame, layout: Layout) -> list[list[str]]:
    """Columns that may hold the item, the likeliest first; a row of columns (``line_item_1``, ...) is one candidate."""
    found = []
    for name in layout.item:
        column = find_column(name, head.columns)
        if column and [column] not in found:
            found.append([column])
    for name in layout.lists:
        if name.endswith("*"):
            pattern = plain_name(name) + "*"
            columns = [c for c in head.columns if fnmatch.fnmatch(plain_name(c), pattern)]
        else:
            column = find_column(name, head.columns)
            columns = [column] if column else []
        if columns and columns not in found:
            found.append(columns)
    return [c for c in found if any(_values(head, column, 1) for column in c)] or found


def _form(head: pl.DataFrame, items: list[str], known: set[str], layout: Layout) -> ListForm | None:
    cells = [cell for column in items for cell in _values(head, column)]
    wide = len(items) > 1 or any(plain_name(name.rstrip("*")) == plain_name(items[0]) for name in layout.lists)
    return guess_form(cells, known, always=wide)


def _pair(
    products: Source,
    head: pl.DataFrame,
    product_head: pl.DataFrame,
    candidates: list[list[str]],
    layout: Layout,
    wishes: Wishes,
) -> tuple[list[str], ProductColumns]:
    """The item column of the orders and the id column of the products whose values meet, the likeliest where none do."""
    names = product_head.columns
    wished = _wished(products, wishes.product, names)
    if wished:
        ids = [wished]
    else:
        own = [column for c in candidates for column in c]
        spelled = [find_column(name, names) for name in (*own, *layout.product, *layout.item)]
        ids = list(dict.fromkeys(column for column in spelled if column))
        if wishes.item and find_column(wishes.item, names):
            ids.insert(0, str(find_column(wishes.item, names)))
    if not ids:
        raise _no_column(products, "the item", "--item_id_col", names, layout)
    best, most = (candidates[0], ids[0]), 0.0
    for items in candidates:
        for column in dict.fromkeys(ids):
            known = set(_values(product_head, column, len(product_head)))
            cells = [cell for c in items for cell in _values(head, c)]
            form = _form(head, items, known, layout)
            if form:
                from dataset_tools.shops.listcells import read_cell

                cells = [item for cell in cells for item, _ in read_cell(cell, form)]
            share = sum(cell in known for cell in cells) / max(1, len(cells))
            if share > most + 1e-9:
                best, most = (items, column), share
    items, column = best
    if wishes.texts is not None:
        texts = [_wished(products, name, names) or name for name in wishes.texts]
    else:
        texts = [c for group in layout.texts if (c := _first(product_head, group, taken=(column,)))]
        if not texts and (c := _first(product_head, tuple(n for g in layout.texts for n in g))):
            texts = [c]
    if not texts:
        raise UserError(
            f"{products.path.name} has no column that looks like a title; its columns are {', '.join(names)}; name the "
            "columns of the text by --text_cols"
        )
    return items, ProductColumns(column, texts, _first(product_head, layout.product_group))


def _no_column(source: Source, what: str, flag: str, names: Sequence[str], layout: Layout) -> UserError:
    advice = f" ({layout.advice})" if layout.advice else ""
    return UserError(
        f"{source.path.name} has no column that looks like {what}; its columns are {', '.join(names)}; name it by "
        f"{flag}{advice}"
    )


def _say(
    orders: Source, products: Source | None, columns: Columns, product: ProductColumns | None, wishes: Wishes
) -> None:
    """One line for each file, of what nobody named."""
    guessed = [
        ("user", columns.user, wishes.user, "--user_col"),
        ("item", ", ".join(columns.items), wishes.item, "--item_col"),
        ("time", columns.time, wishes.time, "--time_col"),
        ("order", columns.order, wishes.order, "--order_col"),
        ("quantity", columns.quantity, wishes.quantity, "--quantity_col"),
        ("status", columns.status, wishes.status, "--status_col"),
    ]
    said = [f"{what} = {column!r}" for what, column, wish, _ in guessed if column and wish is None]
    if said:
        flags = ", ".join(flag for _, column, wish, flag in guessed if column and wish is None)
        orders.note(f"columns: {', '.join(said)} ({flags} say otherwise)")
    if columns.form:
        orders.note(f"a cell holds several items: {columns.form} (--list_separator says otherwise)")
    if products is not None and product is not None and (wishes.product is None or wishes.texts is None):
        group = f", rows of one product share {product.group!r}" if product.group else ""
        products.note(
            f"columns: item = {product.item!r}, text = {', '.join(map(repr, product.texts))}{group} (--item_id_col, "
            "--text_cols say otherwise)"
        )
