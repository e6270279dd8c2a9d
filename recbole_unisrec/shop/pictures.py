"""Pictures of the report as SVG text, which stands in the page itself."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

OURS, RIVAL, SOFT = "#1f5fbf", "#9aa3b2", "#5b6478"


def _svg(figure: Any) -> str:
    """The picture as text, as wide as the page has room."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    head, rest = text[text.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" style="width:100%;height:auto">{rest}'


def _figure(width: float, height: float, salt: str) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = salt
    mpl.rcParams["svg.fonttype"] = "path"
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False, colors=SOFT)
    return figure, axes


def hits_picture(ours: int, low: int, high: int, sold: int) -> str:
    """Bars: of 100 customers, how many bought next what stood in their list, and in that of the best sellers."""
    figure, axes = _figure(4.6, 1.5, "hits")
    axes.barh([1, 0], [ours, sold], color=[OURS, RIVAL], height=0.6)
    axes.plot([low, high], [1, 1], color="#1d2433", linewidth=1.2)
    for place, value, end in ((1, ours, high), (0, sold, sold)):
        axes.text(max(value, end) + 0.8, place, str(value), va="center", fontsize=12)
    axes.set_yticks([1, 0], ["recommendations", "best sellers"], fontsize=11)
    axes.set_xlim(0, max(10, high + 6, sold + 6))
    return _svg(figure)


def months_picture(times: np.ndarray) -> str | None:
    """Columns: purchases a month; None where times are no dates, or all of one month."""
    if not len(times) or times.min() < 6e8 or times.max() > 5e9:
        return None
    months = times.astype("datetime64[s]").astype("datetime64[M]")
    first, last = months.min(), months.max()
    if first == last:
        return None
    counts = np.bincount((months - first).astype(int), minlength=int((last - first).astype(int)) + 1)
    names = [str(first + step) for step in range(len(counts))]
    figure, axes = _figure(4.6, 1.7, "months")
    axes.bar(range(len(counts)), counts, color=OURS, width=0.8)
    every = max(1, len(counts) // 6)
    axes.set_xticks(range(0, len(counts), every), names[::every], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    return _svg(figure)


def customers_picture(lengths: Sequence[int]) -> str:
    """Columns: how many customers bought once, twice, 3 to 5 times, ..."""
    bounds = [(1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, None)]
    values = np.asarray(lengths)
    counts = [int(((values >= low) & (values <= (high or values.max(initial=0)))).sum()) for low, high in bounds]
    names = [str(low) if low == high else f"{low}-{high}" if high else f"{low}+" for low, high in bounds]
    figure, axes = _figure(4.6, 1.7, "customers")
    axes.bar(names, counts, color=[RIVAL, RIVAL, *[OURS] * 5], width=0.7)
    for place, count in enumerate(counts):
        axes.text(place, count, f"{count:,}", ha="center", va="bottom", fontsize=8)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=8)
    return _svg(figure)
