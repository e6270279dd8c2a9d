"""Ids as integer codes, and the ids that RecBole's files cannot hold."""

from __future__ import annotations

import numpy as np
import polars as pl

from dataset_tools.common import UserError


class IdTable:
    """Ids as codes 0, 1, 2, ...; the strings are held once, by polars.

    >>> table = IdTable()
    >>> table.encode(pl.Series(["b", "a", "b"])).tolist()
    [0, 1, 0]
    >>> table.decode(np.array([1, 0])).to_list()
    ['a', 'b']
    """

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        # the strings live as long as a series of the type does
        self._anchor = pl.Series([], dtype=self._type)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def encode(self, ids: pl.Series) -> np.ndarray:
        """Codes [n] uint32 of the ids [n], which hold no null; unseen ids get new codes."""
        codes = ids.cast(self._type).to_physical().cast(pl.UInt32).to_numpy()
        if len(codes):
            self._size = max(self._size, int(codes.max()) + 1)
        return codes

    def decode(self, codes: np.ndarray) -> pl.Series:
        """Ids [n] of the codes [n]."""
        series = pl.Series(codes.astype(np.uint32))
        if hasattr(series.cat, "to"):  # polars 2 took the cast away
            return series.cat.to(self._type).cast(pl.String)
        return series.cast(self._type).cast(pl.String)


# what pandas, and so RecBole, reads as "there is nothing" (`pandas.read_csv`, na_values)
MISSING_WORDS = (
    "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None", "nan", "-nan", "NaN", "-NaN",
    "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip


def is_missing_word(ids: pl.Series) -> pl.Series:
    """Mask [n] of the ids that vanish when RecBole reads them, such as NA and None."""
    return ids.is_in(MISSING_WORDS)


def check_ids(ids: pl.Series, what: str) -> None:
    """Refuse ids that an atomic file cannot hold, or that the wrong encoding made.

    Raises
    ------
    UserError
        Naming the first such id.
    """
    wrong = ids.filter(ids.str.contains('[\t\n\r\x00\x0b\x0c\x1c-\x1e\u0085\u2028\u2029\ufffd]|^\\s*$|^"'))
    if len(wrong):
        raise UserError(
            f"{what} {wrong[0]!r} is empty, begins with a quote, or holds a tab, a line end or a damaged character, "
            f"which an atomic file cannot hold in an id ({len(wrong):,} such); replace it in the source"
        )
    missing = ids.filter(is_missing_word(ids))
    if len(missing):
        raise UserError(f"{what} {missing[0]!r} is a word that RecBole reads as nothing; rename it in the source")
