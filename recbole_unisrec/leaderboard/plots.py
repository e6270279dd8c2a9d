"""The plots of a leaderboard's report, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import group_names
from recbole_unisrec.leaderboard import drawing
from recbole_unisrec.leaderboard.blocks import Plot
from recbole_unisrec.leaderboard.live import seconds, spread
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.leaderboard.runs import GROUPS, Standing


class Drawn(Protocol):
    """What a plot needs to know of a board."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def names(self) -> list[str]:
        """Test metrics."""

    @property
    def score(self) -> str:
        """The metric that chooses on validation."""


def plots(board: Drawn, standings: Sequence[Standing]) -> list[Plot]:
    """The plots of a report; the finding of each is the title within."""
    with drawing.svg_settings():
        return [Plot(name, shows(name, board), draw(board, standings)) for name, draw in KINDS.items()]


def plot(kind: str, board: Drawn, standings: Sequence[Standing]) -> str:
    """One plot as SVG: ``metrics``, ``groups``, ``curves``, ``cost`` or ``new-items``."""
    with drawing.svg_settings():
        return ALL_KINDS[kind](board, standings)


def shows(kind: str, board: Drawn) -> str:
    """What a plot shows, for a caption."""
    metric = board.names[0].upper()
    return {
        "metrics": "Test metrics, mean and standard deviation over seeds",
        "groups": f"{metric} by training interactions of the target and by history length",
        "curves": f"Validation {board.score.upper()} by epoch, first seed",
        "cost": f"Seconds of a run against {board.score.upper()}",
        "new-items": "Test metrics among items that never occur in training",
    }[kind]


def _rival(standings: Sequence[Standing]) -> Standing | None:
    """SASRec, if it is there."""
    named = {s.name: s for s in standings}
    return next((named[name] for name in ("SASRec", "SASRecPacked") if name in named), None)


TINY = 0.01  # a rival's figure below it makes any ratio large: one hit more or less in a hundred users
MORE = 2.0  # beyond it "twice as good" says less than the figures


def compared(metric: str, mine: float, its: float, rival: str) -> str:
    """Two figures in words: how far one is above the other, or both where a ratio would mislead (`TINY`, `MORE`).

    Examples
    --------
    >>> compared("HIT@10", 0.12, 0.1, "SASRec")
    'HIT@10 20% above SASRec'
    >>> compared("HIT@10", 0.055, 0.004, "SASRec")
    'HIT@10 .0550, SASRec .0040'
    """
    if its < TINY or mine > MORE * its:
        return f"{metric} {_figure(mine)}, {rival} {_figure(its)}"
    return f"{metric} {abs(mine / its - 1):.0%} {'above' if mine >= its else 'below'} {rival}"


def _figure(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def _best(standings: Sequence[Standing], score: str) -> Standing:
    return max(standings, key=lambda s: s.values(score).mean())


def _panels(board: Drawn, rows: Sequence[Row], values_of: Callable[[str], list[np.ndarray]]) -> Any:
    """Bars of every row, one panel for each metric."""
    figure, axes = drawing.empty_figure((11, 1.6 + 0.32 * len(rows)), len(board.names))
    for axis, metric in zip(axes, board.names, strict=True):
        values = values_of(metric)
        drawing.bars(axis, rows, [float(v.mean()) for v in values], [spread(v) for v in values])
        axis.set_title(metric.upper())
        if axis is not axes[0]:
            axis.set_yticklabels([])
    drawing.legend_of_kinds(figure, rows)
    return figure


def _bars(board: Drawn, standings: Sequence[Standing]) -> str:
    figure = _panels(board, [s.row for s in standings], lambda metric: [s.values(metric) for s in standings])
    best, rival = _best(standings, board.score), _rival(standings)
    metric = board.score.upper()
    finding = f"{board.dataset}: {best.name} is best in {metric}"
    if rival is not None and rival is not best:
        mine, its = best.values(board.score).mean(), rival.values(board.score).mean()
        finding = f"{board.dataset}: {best.name} is best, {compared(metric, mine, its, rival.name)}"
    drawing.title(figure, finding)
    return drawing.svg_of(figure)


def _groups(board: Drawn, standings: Sequence[Standing]) -> str:
    metric = board.names[0]
    styles = drawing.styles_of([s.row for s in standings])
    figure, axes = drawing.empty_figure((11, drawing.height_of(len(standings), 4.2)), len(GROUPS))
    titles = {"popularity": "training interactions of the target", "length": "items in the history"}
    for axis, kind in zip(axes, GROUPS, strict=True):
        names = [name for name in group_names(GROUPS[kind]) if name in standings[0].runs[0].groups[kind]]
        for s in standings:
            heights = [s.group(kind, name, metric).mean() for name in names]
            axis.plot(names, heights, label=s.name, markersize=4, **styles[s.name])
        axis.set_xlabel(titles[kind])
        axis.set_ylabel(metric.upper())
        axis.set_ylim(bottom=0)
    axes[-1].legend(**drawing.LEGEND)
    drawing.title(figure, _group_finding(board, standings))
    return drawing.svg_of(figure)


def _group_finding(board: Drawn, standings: Sequence[Standing]) -> str:
    """Of which items the best row finds most more than SASRec, by the difference: a ratio is largest where nothing is found."""
    best, rival, metric = _best(standings, board.score), _rival(standings), board.names[0]
    if rival is None or rival is best:
        return f"{board.dataset}: {metric.upper()} by group of users"
    pairs = {
        name: (best.group("popularity", name, metric).mean(), rival.group("popularity", name, metric).mean())
        for name in best.runs[0].groups["popularity"]
    }
    name, (mine, its) = max(pairs.items(), key=lambda pair: pair[1][0] - pair[1][1])
    if mine <= its:
        return f"{best.name} finds no group of items better than {rival.name}"
    said = compared(metric.upper(), mine, its, rival.name)
    return f"{best.name} gains most on items with {name} training interactions: {said}"


def _curves(board: Drawn, standings: Sequence[Standing]) -> str:
    figure, (axis,) = drawing.empty_figure((8.5, drawing.height_of(len(standings), 4)))
    styles = drawing.styles_of([s.row for s in standings])
    for s in standings:
        curve = s.runs[0].curve
        if curve:
            style = styles[s.name]
            axis.plot(range(1, len(curve) + 1), curve, label=s.name, color=style["color"], linestyle=style["linestyle"])
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"validation {board.score.upper()}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.lines:
        axis.legend(**drawing.LEGEND)
    drawing.title(figure, _curve_finding(board, standings))
    return drawing.svg_of(figure)


def _curve_finding(board: Drawn, standings: Sequence[Standing]) -> str:
    best, rival = _best(standings, board.score), _rival(standings)
    mine = best.runs[0].curve
    if rival is None or rival is best or not mine or not rival.runs[0].curve:
        return f"{board.dataset}: validation by epoch"
    goal = max(rival.runs[0].curve)
    epoch = next((i for i, value in enumerate(mine, 1) if value >= goal), None)
    if epoch is None:
        return f"{best.name} stays below {rival.name} on validation"
    return f"{best.name} passes the best of {rival.name} after {epoch} epoch{'s' if epoch > 1 else ''}"


def _cost(board: Drawn, standings: Sequence[Standing]) -> str:
    from matplotlib.ticker import LogFormatter

    figure, (axis,) = drawing.empty_figure((8.5, drawing.height_of(len(standings), 4)))
    styles = drawing.styles_of([s.row for s in standings])
    for s in standings:
        if s.row.model:
            values, style = s.values(board.score), styles[s.name]
            axis.errorbar(
                seconds(s), values.mean(), yerr=spread(values), label=s.name, color=style["color"], marker=style["marker"],
                linestyle="", capsize=2,
            )  # fmt: skip
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(LogFormatter())
    axis.xaxis.set_minor_formatter(LogFormatter())  # 20 and 300, not 2×10¹ and 3×10²
    axis.set_xlabel("seconds of a run (log)")
    axis.set_ylabel(f"test {board.score.upper()}")
    if axis.containers:
        axis.legend(**drawing.LEGEND)
    best = _best(standings, board.score)
    finding = f"{best.name}: {board.score.upper()} {best.values(board.score).mean():.4f} in {seconds(best):.0f} s a run"
    drawing.title(figure, finding)
    return drawing.svg_of(figure)


def _new_items(board: Drawn, standings: Sequence[Standing]) -> str:
    """Bars among the test users whose item never occurs in training."""
    name = group_names(GROUPS["popularity"])[0]
    found = [s for s in standings if name in s.runs[0].groups["popularity"]]
    if not found:
        raise UserError(f"no test user of {board.dataset} has an item to find that never occurs in training")
    figure = _panels(board, [s.row for s in found], lambda metric: [s.group("popularity", name, metric) for s in found])
    metric = board.names[0]
    best = max(found, key=lambda s: s.group("popularity", name, metric).mean())
    users = int(found[0].runs[0].groups["popularity"][name]["users"])
    share = best.group("popularity", name, metric).mean()
    finding = f"{board.dataset}: of {users:,} items to find that never occur in training, {best.name} finds {share:.1%}"
    drawing.title(figure, finding)
    return drawing.svg_of(figure)


# those of a report, by name; and one that is drawn where it is asked for
KINDS: dict[str, Callable[[Drawn, Sequence[Standing]], str]] = {
    "metrics": _bars,
    "groups": _groups,
    "curves": _curves,
    "cost": _cost,
}
ALL_KINDS = {**KINDS, "new-items": _new_items}
