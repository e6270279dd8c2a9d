"""The report: one page in words and pictures for the owner of the shop, which needs nothing from elsewhere."""

from __future__ import annotations

from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.common import write_text
from recbole_unisrec.serving import Recommender
from recbole_unisrec.shop import pictures
from recbole_unisrec.shop.measure import HeldOut, Measured, lists_of
from recbole_unisrec.shop.tables import USER_K, Tables

PEOPLE, BEFORE = 4, 6
_STEPS = {
    "items without a row in the item table removed": "of products that are not in the product table",
    "duplicates removed": "that repeat another",
    "k-core": f"of customers with fewer than {USER_K} purchases",
}


def left_out(steps: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows that went, by reason, in the words of a shop.

    Parameters
    ----------
    steps
        ``step``, ``interactions`` (how many there are after it) and, for some, ``left_out``.
    """
    rows = []
    before = 0
    for step in steps:
        name, count = step["step"], int(step["interactions"])
        if name.startswith("k-core pass"):
            continue
        gone = step.get("left_out", max(0, before - count) if name in _STEPS else 0)
        before = count
        if gone:
            what = _STEPS.get(name, "") or name.removeprefix("rows ").removesuffix(" left out")
            rows.append({"what": what, "out": f"{gone:,}", "left": f"{count:,}"})
    return rows


def verdict(measured: Measured) -> str:
    """What the figure means."""
    ours, low, _, sold = measured.per_hundred()
    if low > sold:
        text = "The recommendations are better than the best sellers, beyond chance."
    elif measured.hits > measured.best_sellers:
        text = "The recommendations did better than the best sellers, but so few customers cannot tell it from chance."
    else:
        text = "For now a list of best sellers does as well. More orders, or richer product texts, will help."
    few = " With fewer than 100 customers all of this is rough." if measured.customers < 100 else ""
    return text + few + (" Hardly any purchase was foreseen." if ours == 0 else "")


def examples(rec: Recommender, held: HeldOut, measured: Measured, titles: dict[str, str]) -> list[dict[str, Any]]:
    """Customers drawn by chance, with what they bought, what would have been shown, and what they bought next."""
    drawn = np.random.default_rng(7).permutation(len(held))[:PEOPLE].tolist()
    lists = lists_of(rec, [held.histories[n] for n in drawn], measured.k, measured.again)
    people = []
    for n, shown in zip(drawn, lists, strict=True):
        target = held.targets[n]
        people.append(
            {
                "name": f"Customer {held.users[n]}",
                "history": [titles.get(item, item) for item in held.histories[n][::-1][:BEFORE]],
                "shown": [(titles.get(item, item), item == target) for item in shown],
                "next": titles.get(target, target),
            }
        )
    return people


def write_report(
    path: Path,
    tables: Tables,
    steps: list[dict[str, Any]],
    measured: Measured,
    rec: Recommender,
    held: HeldOut,
    *,
    files: list[str],
    updates: list[dict[str, Any]],
    one_order: float = 0.0,
    refit: bool = False,
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path
        Of the page, in the shop's folder.
    tables, steps
        What was read, and the counts of the dataset.
    measured, held
        The figure, and the customers it was measured on.
    rec
        The model that it was measured with.
    files
        Names of the files that were read.
    updates
        Entries of `shop.state.State`.
    one_order
        Share of the customers whose last purchase is of one order with the one before.
    refit
        The model in use has learned from the held-out purchases too, after the measurement.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = resources.files("recbole_unisrec.shop").joinpath("report.html.j2").read_text(encoding="utf-8")
    titles = titles_of(tables.products)
    hits, low, high, sold = measured.per_hundred()
    lengths = tables.orders.group_by("user_id").len()["len"].to_list()
    last = steps[-1]
    times = tables.orders["timestamp"].to_numpy()
    times = times / 1000 if len(times) and np.median(times) > 1e11 else times
    months = pictures.months_picture(times)
    text = environment.from_string(page).render(
        date=datetime.now().strftime("%d %B %Y"),
        files=files,
        hits=hits,
        low=low,
        high=high,
        sold=sold,
        k=measured.k,
        customers=measured.customers,
        again=measured.again,
        one_order=round(100 * one_order),
        refit=refit,
        verdict=verdict(measured),
        hits_picture=Markup(pictures.hits_picture(hits, low, high, sold)),
        months_picture=Markup(months) if months else None,
        customers_picture=Markup(pictures.customers_picture(lengths)),
        updates=updates[::-1],
        numbers=[
            ("customers", f"{len(lengths):,}"),
            ("of them to learn from", f"{last['users']:,}"),
            ("products", f"{len(tables.products):,}"),
            ("of them sold", f"{tables.orders['item_id'].n_unique():,}"),
            ("purchases", f"{len(tables.orders):,}"),
        ],
        left_out=left_out([*tables.steps, *steps]),
        notes=tables.notes,
        people=examples(rec, held, measured, titles),
        model=path.parent / "model",
        folder=path.parent,
    )
    write_text(path, text)


def titles_of(products: pl.DataFrame) -> dict[str, str]:
    """Product id to title; the id where there is none."""
    return {item: title or item for item, title in products.select("item_id", "text_1").iter_rows()}
