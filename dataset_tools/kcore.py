"""The k-core of interactions: users and items that are too rare go, again and again, until none is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataset_tools.interactions import count_codes


def k_core(
    users: np.ndarray,
    items: np.ndarray,
    user_k: int = 5,
    item_k: int = 5,
    on_pass: Callable[[int, int, int], None] | None = None,
) -> np.ndarray:
    """Rows of the k-core: drop users and items that are too rare, again and again, until none is.

    Parameters
    ----------
    users, items : arrays of shape (n,)
        Codes.
    user_k, item_k
        As many rows a user or an item needs; 0 for any.
    on_pass
        Called after each pass with the interactions, users and items that are left.

    Returns
    -------
    array of shape (m,), int64
        Surviving rows, ascending. The result does not depend on the order of the passes.

    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), 2, 2).tolist()
    [0, 1, 2, 3]
    """
    rows: np.ndarray | None = None
    user_counts = count_codes(users, int(users.max()) + 1 if len(users) else 0)
    item_counts = count_codes(items, int(items.max()) + 1 if len(items) else 0)
    while len(users):
        keep = (user_counts >= user_k)[users]
        keep &= (item_counts >= item_k)[items]
        if keep.all():
            break
        gone = ~keep
        user_counts -= count_codes(users[gone], len(user_counts))
        item_counts -= count_codes(items[gone], len(item_counts))
        rows = np.flatnonzero(keep) if rows is None else rows[keep]
        users, items = users[keep], items[keep]
        if on_pass:
            on_pass(len(users), int(np.count_nonzero(user_counts)), int(np.count_nonzero(item_counts)))
    return np.arange(len(users)) if rows is None else rows


def largest_k(users: np.ndarray, items: np.ndarray) -> int:
    """Return the largest k whose k-core (on users and items alike) leaves something; 0 for no rows."""
    low, high = 0, len(users)
    if high:
        high = int(min(count_codes(users, int(users.max()) + 1).max(), count_codes(items, int(items.max()) + 1).max()))
    while low < high:
        middle = (low + high + 1) // 2
        if len(k_core(users, items, middle, middle)):
            low = middle
        else:
            high = middle - 1
    return low
