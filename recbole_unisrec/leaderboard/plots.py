"""The plots of a leaderboard's report, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from recbole_unisrec.leaderboard.live import seconds, spread
from recbole_unisrec.leaderboard.runner import GROUPS, Leaderboard, Standing

# colour-blind safe (Okabe and Ito)
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C6D1F"]
LINES = ["-", "--", ":", "-."]
POINTS = ["o", "s", "^", "D"]
LEGEND = {"fontsize": 8, "frameon": False, "loc": "upper left", "bbox_to_anchor": (1, 1)}


def plots(board: Leaderboard, standings: Sequence[Standing]) -> list[tuple[str, str, str]]:
    """(file name, title, SVG) of each plot."""
    import matplotlib as mpl

    metric = board.names[0].upper()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "leaderboard", "font.size": 9}):
        return [
            ("metrics", "Test metrics, mean and standard deviation over seeds", _bars(board, standings)),
            (
                "groups",
                f"{metric} by training interactions of the target and by history length",
                _groups(board, standings),
            ),
            ("curves", f"Validation {board.score.upper()} by epoch, first seed", _curves(board, standings)),
            ("cost", f"Seconds of a run against {board.score.upper()}", _cost(board, standings)),
        ]


def _style(i: int) -> dict[str, Any]:
    """Colour, line and marker of the i-th row; no two of the first 32 are alike."""
    turn = i // len(COLOURS) % len(LINES)
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[turn], "marker": POINTS[turn]}


def _figure(size: tuple[float, float], n: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(1, n, i + 1) for i in range(n)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _height(n: int, least: float) -> float:
    """Of a figure with n rows in its legend."""
    return max(least, 0.5 + 0.2 * n)


def _bars(board: Leaderboard, standings: Sequence[Standing]) -> str:
    figure, axes = _figure((11, 0.8 + 0.32 * len(standings)), len(board.names))
    names = [s.name for s in standings]
    for axis, metric in zip(axes, board.names, strict=True):
        values = [s.values(metric) for s in standings]
        colours = [_style(i)["color"] for i in range(len(standings))]
        axis.barh(names, [v.mean() for v in values], xerr=[spread(v) for v in values], color=colours, capsize=2)
        axis.invert_yaxis()
        axis.margins(y=0.01)
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=4)
        axis.set_title(metric.upper())
        if axis is not axes[0]:
            axis.set_yticklabels([])
    return _svg(figure)


def _groups(board: Leaderboard, standings: Sequence[Standing]) -> str:
    metric = board.names[0]
    figure, axes = _figure((11, _height(len(standings), 3.8)), len(GROUPS))
    titles = {"popularity": "training interactions of the target", "length": "items in the history"}
    for axis, kind in zip(axes, GROUPS, strict=True):
        names = list(standings[0].runs[0].groups[kind])
        for i, s in enumerate(standings):
            heights = [s.group(kind, name, metric).mean() for name in names]
            axis.plot(names, heights, label=s.name, markersize=4, **_style(i))
        axis.set_xlabel(titles[kind])
        axis.set_ylabel(metric.upper())
        axis.set_ylim(bottom=0)
    axes[-1].legend(**LEGEND)
    return _svg(figure)


def _curves(board: Leaderboard, standings: Sequence[Standing]) -> str:
    figure, (axis,) = _figure((8.5, _height(len(standings), 4)))
    for i, s in enumerate(standings):
        curve = s.runs[0].curve
        if curve:
            style = _style(i)
            axis.plot(range(1, len(curve) + 1), curve, label=s.name, color=style["color"], linestyle=style["linestyle"])
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"validation {board.score.upper()}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.lines:
        axis.legend(**LEGEND)
    return _svg(figure)


def _cost(board: Leaderboard, standings: Sequence[Standing]) -> str:
    from matplotlib.ticker import LogFormatter

    figure, (axis,) = _figure((8.5, _height(len(standings), 4)))
    for i, s in enumerate(standings):
        if s.row.model:
            values, style = s.values(board.score), _style(i)
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
        axis.legend(**LEGEND)
    return _svg(figure)
