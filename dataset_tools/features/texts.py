"""The texts of a dataset's items, and words left out of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_tools.common import UserError
from dataset_tools.features.items import Fields, header_names, read_item_ids, read_item_table, read_lines, warn

EMPTY = "."  # what the authors put where an item has no text


def read_index(path: Path) -> list[str]:
    """Raw ids by index, from `NAME.item2index`."""
    ids: dict[int, str] = {}
    lines = [line for line in read_lines(path) if line]
    for number, line in enumerate(lines, start=1):
        item, tab, index = line.rpartition("\t")
        if not tab or not index.strip().isdecimal():
            raise UserError(f"{path} line {number} is {line[:60]!r}; each line is a raw id, a tab and an index")
        if int(index) >= len(lines) or int(index) in ids:
            raise UserError(
                f"{path} line {number}: index {int(index)} is taken twice or above {len(lines) - 1}; "
                "the indices must be 0 to the number of items - 1, each once"
            )
        ids[int(index)] = item
    return [ids[i] for i in range(len(ids))]


def item_file(folder: Path, name: str, fields: Fields) -> Path:
    """`NAME.text` or `NAME.item`: the one that has the columns that are asked for.

    Raises
    ------
    UserError
        If neither is there.
    """
    candidates = [folder / f"{name}.text", folder / f"{name}.item"]
    there = [path for path in candidates if path.is_file()]
    if not there:
        raise UserError(f"no item texts: neither {candidates[0]} nor {candidates[1]} exists; check folder and --name")
    # NAME.text holds one column of text; columns that are asked for may stand in NAME.item
    wanted = {fields.item_id, *(fields.text_cols or ())}
    if len(there) == 1 or wanted == {Fields().item_id}:
        return there[0]
    return next((path for path in there if wanted <= set(header_names(path, fields))), there[-1])


def read_ids(folder: str | os.PathLike[str], name: str, fields: Fields | None = None) -> list[str]:
    """Raw item ids of a dataset by item index, in the order that `read_texts` explains."""
    folder, fields = Path(folder), fields or Fields()
    index = folder / f"{name}.item2index"
    return read_index(index) if index.is_file() else read_item_ids(item_file(folder, name, fields), fields)


def read_texts(folder: str | os.PathLike[str], name: str, fields: Fields | None = None) -> tuple[list[str], list[str]]:
    """Raw item ids and texts of a dataset, by item index.

    The order is that of `NAME.item2index`, or where there is none the order of the items in `NAME.text` (else
    `NAME.item`). Nothing is written.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files.
    fields
        Names and separators, and the columns that make the text; None for the defaults.

    Returns
    -------
    tuple of two lists [n_items]
        Raw ids and texts. A text that is empty after stripping white space is ``"."``, with one warning that counts.

    Raises
    ------
    UserError
        If there is neither `NAME.text` nor `NAME.item`, a column is missing, an indexed item has no line in it, or
        `NAME.item2index` does not number the items 0, 1, 2, ...
    """
    found = read_items(folder, name, fields)
    return found.ids, found.texts


@dataclass(frozen=True)
class Texts:
    """What `read_items` finds.

    Attributes
    ----------
    ids, texts
        [n_items] by item index, as `read_texts` gives them.
    columns
        The columns that made the texts.
    chosen
        One line for the user where the columns were chosen, not named; else empty.
    """

    ids: list[str]
    texts: list[str]
    columns: tuple[str, ...]
    chosen: str


def read_items(folder: str | os.PathLike[str], name: str, fields: Fields | None = None) -> Texts:
    """`read_texts`, and which columns made the texts."""
    folder = Path(folder)
    fields = fields or Fields()
    table = read_item_table(item_file(folder, name, fields), fields)
    index = folder / f"{name}.item2index"
    ids = read_index(index) if index.is_file() else list(table.texts)
    if not ids:
        raise UserError(f"{table.source} holds no items")
    missing = [item for item in ids if item not in table.texts]
    if missing:
        raise UserError(f"{len(missing)} items of {index} have no line in {table.source}, first {missing[0]!r}")
    texts = [table.texts[item] or EMPTY for item in ids]
    n_empty = sum(not table.texts[item] for item in ids)
    if n_empty:
        warn(f"{n_empty} of {len(ids)} items have no text in {table.source}; they are encoded as {EMPTY!r}")
    chosen = ""
    if table.chosen:
        chosen = (
            f"the text of an item is {', '.join(table.columns)} of {table.source.name} (it has no column text; "
            "--text_cols, or text_cols in a property file, names others)"
        )
    return Texts(ids, texts, table.columns, chosen)


def drop_words(texts: Sequence[str], probability: float, seed: int) -> list[str]:
    """Leave out each word with the given probability; the result depends on nothing but the arguments.

    Parameters
    ----------
    texts
        Words are what single spaces separate.
    probability
        0 keeps every word.
    seed
        Of numpy's default generator, which is read once for all texts in order.
    """
    rng = np.random.default_rng(seed)
    dropped = []
    for text in texts:
        words = text.split(" ")
        keep = rng.random(len(words)) >= probability
        dropped.append(" ".join(word for word, kept in zip(words, keep, strict=True) if kept).strip() or EMPTY)
    return dropped
