"""The plots of several datasets: every row on every target, and figures by the share of the users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_unisrec.leaderboard import drawing
from recbole_unisrec.leaderboard.blocks import Plot
from recbole_unisrec.leaderboard.live import spread
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.leaderboard.versus import SetResult, share_text

COLUMNS = 4
WITHOUT = {"text-kNN": "text-kNN-no-popularity"}  # what stands for a row where nothing at all was learned from
WITHOUT_OF = {other: name for name, other in WITHOUT.items()}


def plots(
    sets: Sequence[SetResult], shares: Sequence[SetResult], rows: Sequence[str], against: Sequence[str], metric: str
) -> list[Plot]:
    """The plot of all targets, and of the share of the users where there are such runs."""
    with drawing.svg_settings():
        found = [
            Plot("summary", f"{metric.upper()} of every row on every target", targets(sets, rows, against, metric))
        ]
        if shares:
            shows = f"{metric.upper()} by the share of the users that a row learned from"
            found.append(Plot("summary-shares", shows, by_share([*sets, *shares], metric)))
    return found


def _row(sets: Sequence[SetResult], name: str) -> Row:
    return next(result.rows[name].row for result in sets if name in result.rows)


def targets(sets: Sequence[SetResult], names: Sequence[str], against: Sequence[str], metric: str) -> str:
    """Bars of every row, one panel for each target."""
    rows = [_row(sets, name) for name in names]
    columns = min(COLUMNS, len(sets))
    lines = -(-len(sets) // columns)
    figure, axes = drawing.empty_figure(
        (max(8, 3.5 + 2.2 * columns), 0.9 + (0.5 + 0.21 * len(rows)) * lines), len(sets), columns
    )
    for i, (axis, result) in enumerate(zip(axes, sets, strict=True)):
        values = [result.rows[name].values(metric) if name in result.rows else np.array([np.nan]) for name in names]
        drawing.bars(axis, rows, [float(v.mean()) for v in values], [spread(v) for v in values])
        axis.set_title(result.dataset)
        if i % columns:
            axis.set_yticklabels([])
    drawing.legend_of_kinds(figure, rows)
    drawing.title(figure, _finding(sets, names, against, metric))
    return drawing.svg_of(figure)


def _finding(sets: Sequence[SetResult], names: Sequence[str], against: Sequence[str], metric: str) -> str:
    """Which row is best on most targets, and how far above the reference."""

    def mean(result: SetResult, name: str) -> float:
        return float(result.rows[name].values(metric).mean())

    def gain(name: str, base: str) -> float | None:
        ratios = [
            mean(result, name) / mean(result, base)
            for result in sets
            if name in result.rows and base in result.rows and mean(result, base) > 0
        ]
        return float(np.exp(np.log(np.maximum(ratios, 1e-9)).mean()) - 1) if ratios else None

    best = [max(result.rows, key=lambda name: mean(result, name)) for result in sets]
    first = against[0] if against else ""
    winner = max(
        names, key=lambda name: (best.count(name), gain(name, first) or 0.0)
    )  # of equals the one with most gain
    n = sum(winner in result.rows for result in sets)
    text = f"{winner} has the best {metric.upper()} on {best.count(winner)} of {n} target{'s' if n > 1 else ''}"
    base = next((name for name in against if name != winner), "")
    above = gain(winner, base)
    if above is not None:
        text += f", {abs(above):.0%} {'above' if above >= 0 else 'below'} {base}{' in the mean' if n > 1 else ''}"
    return text


def by_share(results: Sequence[SetResult], metric: str) -> str:
    """Lines over the share of the users, one panel for each dataset that has such runs."""
    datasets = [
        name
        for name in dict.fromkeys(r.dataset for r in results)
        if any(r.share != 1 for r in results if r.dataset == name)
    ]
    names = list(dict.fromkeys(name for r in results if r.share != 1 for name in r.rows))
    names = [name for name in names if name not in WITHOUT.values() or WITHOUT_OF[name] not in names]
    rows = [_row(results, name) for name in names]
    styles = drawing.styles_of(rows)
    columns = min(COLUMNS, len(datasets))
    lines = -(-len(datasets) // columns)
    size = (max(8, 3 + 2.7 * columns), drawing.height_of(len(rows), 3.2) * lines)
    figure, axes = drawing.empty_figure(size, len(datasets), columns)
    for axis, dataset in zip(axes, datasets, strict=True):
        shares = _shares(results, dataset)
        for name in names:
            found = [(i, _at(results, dataset, share, name, metric)) for i, share in enumerate(shares)]
            points = [(i, values) for i, values in found if values is not None]
            if points:
                x, values = zip(*points, strict=True)
                y, deviation = [float(v.mean()) for v in values], [spread(v) for v in values]
                axis.errorbar(x, y, deviation, label=name, markersize=4, capsize=2, elinewidth=0.8, **styles[name])
        axis.set_xticks(range(len(shares)), [share_text(share) for share in shares])
        axis.set_ylim(bottom=0)
        axis.set_title(dataset)
        axis.set_xlabel("share of the users")
    axes[0].set_ylabel(metric.upper())
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8)
    drawing.title(figure, _share_finding(results, datasets, names, metric))
    return drawing.svg_of(figure)


def _shares(results: Sequence[SetResult], dataset: str) -> list[float]:
    mine = [r for r in results if r.dataset == dataset]
    nothing = {0.0 for r in mine if r.share == 1 and set(WITHOUT_OF) & set(r.rows)}
    return sorted({r.share for r in mine} | nothing)


def _at(results: Sequence[SetResult], dataset: str, share: float, name: str, metric: str) -> np.ndarray | None:
    """A row's value for each seed at a share, [S]; where nothing was learned from, of the row that stands for it."""
    full = next((r for r in results if (r.dataset, r.share) == (dataset, 1)), None)
    found = next((r for r in results if (r.dataset, r.share) == (dataset, share)), None)
    if found is not None and name in found.rows:
        return found.rows[name].values(metric)
    other = WITHOUT.get(name)
    if share == 0 and other and full is not None and other in full.rows:
        return full.rows[other].values(metric)
    return None


def _share_finding(results: Sequence[SetResult], datasets: Sequence[str], names: Sequence[str], metric: str) -> str:
    """Which row is best with the fewest users."""
    least = min(share for name in datasets for share in _shares(results, name) if share > 0)
    where = [name for name in datasets if least in _shares(results, name)]
    values: dict[str, list[float]] = {}
    for name in names:
        found = [_at(results, dataset, least, name, metric) for dataset in where]
        if all(v is not None for v in found):
            values[name] = [float(v.mean()) for v in found if v is not None]
    if not values:
        return f"{metric.upper()} by the share of the users"
    best = [max(values, key=lambda name: values[name][i]) for i in range(len(where))]
    winner = max(values, key=best.count)
    n, with_least = len(where), f"With {share_text(least)} of the users"
    if 2 * best.count(winner) <= n:  # no row is best on most of them
        on = {name: ", ".join(d for d, b in zip(where, best, strict=True) if b == name) for name in dict.fromkeys(best)}
        return f"{with_least} the best are " + "; ".join(f"{name} on {targets}" for name, targets in on.items())
    on_most = f"on {best.count(winner)} of {n} targets" if n > 1 else f"on {where[0]}"
    return f"{with_least} {winner} is best {on_most}"
