"""Which purchases nothing is left of, because they were sent back in rows of their own, and which way a file is sorted."""

from __future__ import annotations

import numpy as np
import polars as pl

from dataset_tools.interactions import Collector
from dataset_tools.left_out import LeftOut
from dataset_tools.shops.products import canonical
from dataset_tools.sources import Source

NEWEST_FIRST = 9  # steps back in time for each step forward, from which a file lists the newest first


def sent_back(bought: pl.DataFrame, returned: pl.DataFrame) -> tuple[np.ndarray, int]:
    """Set returns against what the same customer bought of the same item before, the latest purchase first.

    Parameters
    ----------
    bought
        ``user``, ``item``, ``time`` and ``quantity`` (above 0) [n].
    returned
        The same columns [m]; quantities are below 0.

    Returns
    -------
    gone : array of shape (n,), bool
        Purchases of which every piece came back.
    unknown : int
        Returns of something that was not bought before, as far as the rows tell.

    >>> columns = ["user", "item", "time", "quantity"]
    >>> bought = pl.DataFrame([("u", "a", 1, 2), ("u", "a", 2, 1)], columns, orient="row")
    >>> gone, unknown = sent_back(bought, pl.DataFrame([("u", "a", 3, -2)], columns, orient="row"))
    >>> gone.tolist(), unknown  # the later one, and one piece of the earlier
    ([False, True], 0)
    """
    gone = np.zeros(len(bought), dtype=bool)
    if not len(returned):
        return gone, 0
    keys = ["user", "item"]
    lots = bought.with_row_index("row").join(returned.select(keys).unique(), on=keys, how="semi")
    left: dict[tuple[object, object], list[list[float]]] = {}
    for row, user, item, time, quantity in lots.select("row", *keys, "time", "quantity").sort("time").iter_rows():
        left.setdefault((user, item), []).append([time, quantity, row])
    unknown = 0
    for user, item, time, quantity in returned.select(*keys, "time", "quantity").sort("time").iter_rows():
        pieces = -quantity
        own = [lot for lot in left.get((user, item), []) if lot[0] <= time]
        unknown += not own
        for lot in reversed(own):
            taken = min(pieces, lot[1])
            lot[1] -= taken
            pieces -= taken
            if lot[1] <= 0:
                gone[int(lot[2])] = True
            if pieces <= 0:
                break
    return gone, unknown


def newest_first(times: np.ndarray) -> bool:
    """Whether a file lists the newest rows first, by the times [n] of its rows.

    >>> newest_first(np.array([3, 3, 2, 1])), newest_first(np.array([1, 2, 3])), newest_first(np.array([2, 2]))
    (True, False, False)
    """
    steps = np.diff(times)
    back = int((steps < 0).sum())
    return back > 0 and back >= NEWEST_FIRST * int((steps > 0).sum())


def oldest_first(blocks: np.ndarray) -> np.ndarray:
    """The order [n] that turns a file round order by order; the rows of an order stay as they are.

    Parameters
    ----------
    blocks
        Number [n] of the order that a row is of, rising with the rows of the file.

    >>> oldest_first(np.array([0, 0, 1, 2, 2])).tolist()
    [3, 4, 2, 0, 1]
    """
    return np.argsort(-blocks.astype(np.int64), kind="stable")


def rows_that_count(
    source: Source,
    collector: Collector,
    back: list[pl.DataFrame],
    quantities: list[np.ndarray],
    orders: list[np.ndarray],
    id_match: str,
    left: LeftOut,
) -> np.ndarray | None:
    """Rows of what was not sent back, those of a file that lists the newest first turned round; None for all as they are.

    Parameters
    ----------
    source
        The table, for its notes.
    collector
        The rows that were read.
    back
        What `read_orders` left out.
    quantities, orders
        Of the rows, block by block.
    id_match
        As of `build`.
    left
        Counts what goes.
    """
    times = collector.column("times")
    keep = np.ones(len(times), dtype=bool)
    returned = pl.concat(back).filter(pl.col("quantity") < 0) if back else pl.DataFrame()
    if len(returned):
        bought = pl.DataFrame({"user": collector.column("users"), "item": collector.column("items"), "time": times})
        bought = bought.with_columns(pl.Series("quantity", np.concatenate(quantities), dtype=pl.Float64))
        users = collector.user_ids.encode(returned["user"])
        items = collector.item_ids.encode(canonical(returned["item"], id_match))
        of_codes = returned.select(user=pl.Series(users), item=pl.Series(items), time="_time", quantity="quantity")
        gone, unknown = sent_back(bought, of_codes)
        keep = ~gone
        if gone.any():
            left.count(int(gone.sum()), "of purchases that were sent back later")
        note_unknown(source, unknown)
    if not newest_first(times):
        return None if keep.all() else keep
    blocks = np.concatenate(orders)
    note_newest_first(source, times, blocks)
    order = oldest_first(blocks)
    return order[keep[order]]


def note_unknown(source: Source, unknown: int) -> None:
    """Say how many returns there are of nothing that was bought before."""
    if unknown:
        source.note(f"{unknown:,} returns are of something that was bought before these orders begin")


def note_newest_first(source: Source, times: np.ndarray, blocks: np.ndarray) -> None:
    """Say that a file is turned round, where it makes a difference."""
    if ((times[1:] == times[:-1]) & (blocks[1:] != blocks[:-1])).any():
        source.note("lists the newest orders first; of orders with equal times the lower one counts as the earlier")
