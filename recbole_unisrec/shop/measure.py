"""Measure lists of recommendations on what customers bought next, against the list of best sellers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recbole_unisrec.serving import Recommender

MOST = 20_000  # customers that are asked; more make the figure no surer
AGAIN = 0.1  # share of purchases of a product that the customer had bought before, from which lists may hold such
Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class HeldOut:
    """Customers, what each bought before, and the purchase that was kept from the model, in order."""

    users: list[str]
    histories: list[list[str]]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Measured:
    """How many customers bought next what stood in their list.

    Attributes
    ----------
    customers
        That were asked.
    k
        Products of a list.
    hits, best_sellers
        Customers whose next purchase stood in their list, and in the list of best sellers.
    gain
        Mean of 1 / log2(place + 1) of the next purchase in the list, 0 where it is not there (NDCG).
    again
        Whether lists hold what the customer bought before.
    """

    customers: int
    k: int
    hits: int
    best_sellers: int
    gain: float
    again: bool

    def per_hundred(self) -> tuple[int, int, int, int]:
        """Of a hundred customers: hits, their 95% interval (Wilson), and those of the best sellers."""
        n, share = self.customers, self.hits / self.customers
        middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * float(np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))) / (1 + Z * Z / n)
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        return round(100 * share), round(100 * low), round(100 * high), round(100 * self.best_sellers / n)


def list_length(n_items: int) -> int:
    """Products of a list: ten, and fewer where ten would be a large part of all.

    >>> list_length(12), list_length(30), list_length(5000)
    (3, 6, 10)
    """
    return max(3, min(10, n_items // 5))


def read_sequences(folder: Path, name: str) -> pl.DataFrame:
    """``user``, ``items`` and ``times`` of a dataset, those of each customer from old to new."""
    path = folder / f"{name}.inter"
    frame = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False, new_columns=["user", "item", "time"])
    return frame.group_by("user", maintain_order=True).agg(pl.col("item").alias("items"), pl.col("time").alias("times"))


def held_out(sequences: pl.DataFrame, back: int = 1, among: set[str] | None = None) -> HeldOut:
    """The last purchase of each customer (``back`` 1), or the one before it (2), and what came before.

    Parameters
    ----------
    sequences
        From `read_sequences`.
    back
        Which purchase from the end.
    among
        Customers that count; None for all. More than `MOST` are drawn by chance, always the same.
    """
    rows = sequences.filter(pl.col("items").list.len() > back)
    if among is not None:
        rows = rows.filter(pl.col("user").is_in(list(among)))
    if len(rows) > MOST:
        rows = rows.sample(MOST, seed=0)
    items = rows["items"].to_list()
    return HeldOut(rows["user"].to_list(), [own[:-back] for own in items], [own[-back] for own in items])


def buys_again(sequences: pl.DataFrame) -> bool:
    """Whether customers often buy what they bought before; by the last purchase but one, the last is for measuring."""
    known = held_out(sequences, 2)
    again = sum(target in history for history, target in zip(known.histories, known.targets, strict=True))
    return again >= AGAIN * max(1, len(known))


def in_one_order(sequences: pl.DataFrame) -> float:
    """Share of the customers whose last purchase has the time of the one before, so that both are of one order."""
    times = sequences.filter(pl.col("items").list.len() > 1)["times"]
    return float(np.mean((times.list.get(-1) == times.list.get(-2)).to_numpy())) if len(times) else 0.0


def best_sellers(sequences: pl.DataFrame) -> list[str]:
    """Products by how often they were bought, without the last two purchases of each customer."""
    learned = sequences.select(pl.col("items").list.head(pl.col("items").list.len() - 2).explode())[
        "items"
    ].drop_nulls()
    counts = learned.value_counts(sort=False).sort(["count", "items"], descending=[True, False])
    return counts["items"].to_list()


def lists_of(
    rec: Recommender, histories: Sequence[Sequence[str]], k: int, again: bool, candidates: Sequence[str] | None = None
) -> list[list[str]]:
    """The lists [n, k] that a model shows after each history."""
    answers = rec.recommend([list(h) for h in histories], k=k, exclude_seen=not again, candidates=candidates)
    return [answer.ids for answer in answers]


def measure(
    rec: Recommender, held: HeldOut, sold: Sequence[str], k: int, again: bool, candidates: Sequence[str] | None = None
) -> Measured:
    """Look which next purchases stand in the lists.

    Parameters
    ----------
    rec
        The model; it must not have learned the held-out purchases.
    held
        Of `held_out`.
    sold
        Of `best_sellers`.
    k, again
        See `Measured`.
    candidates
        Products that a list may hold; None for all that the model knows.
    """
    hits = popular = 0
    gain = 0.0
    lists = lists_of(rec, held.histories, k, again, candidates)
    for history, target, shown in zip(held.histories, held.targets, lists, strict=True):
        if target in shown:
            hits += 1
            gain += 1 / float(np.log2(shown.index(target) + 2))
        seen = set() if again else set(history)
        top: list[str] = []
        for item in sold:
            if item not in seen:
                top.append(item)
                if len(top) == k:
                    break
        popular += target in top
    return Measured(len(held), k, hits, popular, gain / max(1, len(held)), again)
