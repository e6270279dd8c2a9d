"""The split that RecBole's ``eval_args`` ask for by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recbole_unisrec.data.splits import (
    Sequences,
    Split,
    by_ratio,
    by_share_of_time,
    by_time,
    everything,
    leave_one_out,
)
from recbole_unisrec.errors import UserError

ORDERS = ("TO", "RO")
OWN_SPLITS = ("TIME", "ALL")  # that RecBole does not know


def split_function(eval_args: dict[str, object]) -> Callable[[Sequences, int], Split]:
    """The function that RecBole's ``eval_args`` asks for, without its arguments but sequences and window.

    Beside RecBole's ``LS``, ``RS`` and ``TS`` there are ``TIME: [VALID, TEST]`` (numbers, dates like 2011-09-01, or
    shares of the interactions like 80%) and ``ALL`` (everything trains).

    Raises
    ------
    UserError
        If it asks for something else.
    """
    split, order = eval_args.get("split"), str(eval_args.get("order", "TO"))
    if not isinstance(split, dict) or len(split) != 1:
        raise UserError(f"eval_args split must name one split, like {{'LS': 'valid_and_test'}}, not {split!r}")
    if order not in ORDERS:
        raise UserError(f"eval_args order must be TO (by time) or RO (at random), not {order!r}")
    ((kind, value),) = split.items()
    group_by = eval_args.get("group_by", "user")
    if order == "RO" and kind in ("LS", "TS"):  # which is also what RecBole takes where eval_args name none
        raise UserError(f"eval_args split {kind} goes by time; add order: TO (for a random part use RS)")
    if kind == "LS":
        return lambda sequences, window: leave_one_out(sequences, window, str(value))
    if kind == "RS":
        return lambda sequences, window: by_ratio(sequences, window, value, order, group_by)  # type: ignore[arg-type]
    if kind == "TS":
        return lambda sequences, window: by_share_of_time(sequences, window, value)
    if kind == "TIME":
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise UserError(f"eval_args split TIME takes two points, [VALID, TEST], not {value!r}")
        return lambda sequences, window: by_time(sequences, window, *(point(v, sequences.time) for v in value))
    if kind == "ALL":
        return everything
    raise UserError(f"eval_args split has no {kind!r}; choose one of LS, RS, TS, TIME, ALL")


def point(value: object, time: np.ndarray) -> float:
    """A point in time: a number, a date (UTC; times are seconds then), or a share of the interactions like ``80%``.

    Raises
    ------
    UserError
        If it is none of these.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    try:
        if text.endswith("%"):
            return float(np.quantile(time, float(text[:-1]) / 100))
        return float(np.datetime64(text.removesuffix("Z"), "s").astype(np.int64))
    except ValueError as error:
        raise UserError(
            f"{value!r} is no point in time; give a number, a date like 2011-09-01, or a share like 80%"
        ) from error
