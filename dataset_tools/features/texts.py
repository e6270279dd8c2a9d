"""The texts of a dataset's items, and words left out of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_tools.common import UserError

EMPTY = "."  # what the authors put where an item has no text


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _read_lines(path: Path) -> list[str]:
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


def _read_item_table(path: Path) -> dict[str, str]:
    """Text of each item in file order, from `NAME.text` or the ``text`` column of `NAME.item`."""
    lines = _read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty; it needs the header item_id:token<TAB>text:token_seq and a line an item")
    fields = [field.split(":")[0] for field in lines[0].split("\t")]
    for needed in ("item_id", "text"):
        if needed not in fields:
            found = ", ".join(lines[0].split("\t"))
            raise UserError(f"{path} has no column {needed}; its header holds: {found}")
    id_at, text_at, width = fields.index("item_id"), fields.index("text"), len(fields)
    texts: dict[str, str] = {}
    n_twice = 0
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        cells = line.split("\t")
        surplus = len(cells) - width
        if surplus > 0:
            # a tab inside the text: the columns behind it keep their distance from the end
            stop = text_at + surplus + 1
            cells[text_at:stop] = [" ".join(cells[text_at:stop])]
        elif surplus < 0 and len(cells) < width - 1:
            raise UserError(f"{path} line {number} has {len(cells)} columns, the header {width}; mend or remove it")
        item = cells[id_at]
        if item in texts:
            n_twice += 1
            continue
        texts[item] = cells[text_at].strip() if text_at < len(cells) else ""
    if n_twice:
        warn(f"{path} names {n_twice} items more than once; the first text of each is used")
    return texts


def _read_index(path: Path) -> list[str]:
    """Raw ids by index, from `NAME.item2index`."""
    ids: dict[int, str] = {}
    lines = [line for line in _read_lines(path) if line]
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


def _item_table(folder: Path, name: str) -> tuple[Path, dict[str, str]]:
    candidates = [folder / f"{name}.text", folder / f"{name}.item"]
    source = next((path for path in candidates if path.is_file()), None)
    if source is None:
        raise UserError(f"no item texts: neither {candidates[0]} nor {candidates[1]} exists; check folder and --name")
    return source, _read_item_table(source)


def read_ids(folder: str | os.PathLike[str], name: str) -> list[str]:
    """Raw item ids of a dataset by item index, in the order that `read_texts` explains."""
    folder = Path(folder)
    index = folder / f"{name}.item2index"
    return _read_index(index) if index.is_file() else list(_item_table(folder, name)[1])


def read_texts(folder: str | os.PathLike[str], name: str) -> tuple[list[str], list[str]]:
    """Raw item ids and texts of a dataset, by item index.

    The order is that of `NAME.item2index`, or where there is none the order of the items in `NAME.text` (else
    `NAME.item`). Nothing is written.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files.

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
    folder = Path(folder)
    source, table = _item_table(folder, name)
    index = folder / f"{name}.item2index"
    ids = _read_index(index) if index.is_file() else list(table)
    if not ids:
        raise UserError(f"{source} holds no items")
    missing = [item for item in ids if item not in table]
    if missing:
        raise UserError(f"{len(missing)} items of {index} have no line in {source}, first {missing[0]!r}")
    texts = [table[item] or EMPTY for item in ids]
    n_empty = sum(not table[item] for item in ids)
    if n_empty:
        warn(f"{n_empty} of {len(ids)} items have no text in {source}; they are encoded as {EMPTY!r}")
    return ids, texts


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
