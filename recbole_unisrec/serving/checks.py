"""What may enter a recommender: ids, k and new items, checked with errors of one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_unisrec.errors import UserError


def clean(text: str) -> str:
    """A text as dataset files hold it: on one line, and "." where there is none."""
    from dataset_tools.features import EMPTY

    return re.sub("[\t\r\n]", " ", text).strip() or EMPTY


def check_ids(ids: Sequence[str], what: str) -> None:
    """Raise `UserError` unless `ids` is a list of texts; `what` names it in the message."""
    if isinstance(ids, str):
        raise UserError(f"{what} must be a list of item ids, not the text {ids[:40]!r}")
    for item in ids:
        if not isinstance(item, str):
            raise UserError(f"{what} holds {item!r}, but item ids are text; write it in quotes")


def check_k(k: int) -> None:
    """Raise `UserError` unless k is a whole number of 1 or more."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise UserError(f"k is {k!r}; it must be a whole number of 1 or more")


def check_items(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str], list[str | None]]:
    """Ids, clean texts and titles of new items; `UserError` where an id or a text is missing, or an id comes twice."""
    ids, texts, titles = [], [], []
    for number, row in enumerate(rows, start=1):
        item, text, title = row.get("item_id"), row.get("text"), row.get("title")
        if not isinstance(item, str) or not item:
            raise UserError(f"new item {number} has the id {item!r}; it must be a text that is not empty")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"new item {item!r} has no text; the model knows an item by its text, so write one")
        ids.append(item)
        texts.append(clean(text))
        titles.append(title if isinstance(title, str) and title.strip() else None)
    if len(set(ids)) < len(ids):
        twice = next(item for i, item in enumerate(ids) if item in ids[:i])
        raise UserError(f"item {twice!r} occurs more than once among the new items; leave one out")
    return ids, texts, titles


def unknown_ids(items: Sequence[str], what: str) -> str:
    """The sentence about unknown items."""
    return (
        f"{len(items)} items of {what} are not in the catalogue, for example {items[0]!r}; add them or leave them out"
    )
