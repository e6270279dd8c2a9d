"""The plots of a leaderboard's report, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from recbole_unisrec.leaderboard.live import seconds, spread
from recbole_unisrec.leaderboard.runner import Leaderboard
from recbole_unisrec.leaderboard.runs import GROUPS, Standing

# what a colour says (colour-blind safe, Okabe and Ito); rows of one kind differ by their shade and line
COLOURS = {"ours": "#D55E00", "the paper's UniSRec": "#0072B2", "rival": "#7F7F7F", "no training": "#56B4E9"}
LINES = ["-", "--", ":", "-."]
POINTS = ["o", "s", "^", "D"]
SHADES = [1.0, 0.6, 0.8, 0.45]
LEGEND = {"fontsize": 8, "frameon": False, "loc": "upper left", "bbox_to_anchor": (1, 1)}


def plots(board: Leaderboard, standings: Sequence[Standing]) -> list[tuple[str, str, str]]:
    """(file name, what it shows, SVG) of each plot; its finding is the title within."""
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


def _styles(standings: Sequence[Standing]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each row: the colour by its kind, the rest by its place among its kind."""
    from matplotlib.colors import to_rgb

    found: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for s in standings:
        i = seen[s.row.kind] = seen.get(s.row.kind, -1) + 1
        shade = SHADES[i // len(LINES) % len(SHADES)]
        colour = tuple(1 - (1 - part) * shade for part in to_rgb(COLOURS[s.row.kind]))
        found[s.name] = {"color": colour, "linestyle": LINES[i % len(LINES)], "marker": POINTS[i % len(POINTS)]}
    return found


def _rival(standings: Sequence[Standing]) -> Standing | None:
    """SASRec, if it is there."""
    named = {s.name: s for s in standings}
    return next((named[name] for name in ("SASRec", "SASRecPacked") if name in named), None)


def _gain(value: float, rival: float) -> str:
    if not rival:
        return "beside 0 of"
    return f"{abs(value / rival - 1):.0%} {'above' if value >= rival else 'below'}"


def _best(standings: Sequence[Standing], score: str) -> Standing:
    return max(standings, key=lambda s: s.values(score).mean())


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
    from matplotlib.patches import Patch

    figure, axes = _figure((11, 1.6 + 0.32 * len(standings)), len(board.names))
    names = [s.name for s in standings]
    colours = [_styles([s])[s.name]["color"] for s in standings]  # of the kind alone
    for axis, metric in zip(axes, board.names, strict=True):
        values = [s.values(metric) for s in standings]
        means = [v.mean() for v in values]
        bars = axis.barh(
            names, means, xerr=[spread(v) for v in values], color=colours, error_kw={"lw": 0.8, "capsize": 2}
        )
        axis.bar_label(bars, [f" {mean:.4f}".replace("0.", ".", 1) for mean in means], fontsize=7.5, padding=3)
        axis.set_xlim(0, max(mean + spread(v) for mean, v in zip(means, values, strict=True)) * 1.3 or 1)
        axis.invert_yaxis()
        axis.margins(y=0.01)
        axis.grid(axis="y", visible=False)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        axis.set_title(metric.upper())
        if axis is not axes[0]:
            axis.set_yticklabels([])
    kinds = [kind for kind in COLOURS if any(s.row.kind == kind for s in standings)]
    figure.legend(
        [Patch(color=COLOURS[kind]) for kind in kinds],
        kinds,
        loc="outside lower center",
        ncols=len(kinds),
        frameon=False,
    )
    best, rival = _best(standings, board.score), _rival(standings)
    finding = f"{board.dataset}: {best.name} is best in {board.score.upper()}"
    if rival is not None and rival is not best:
        finding += f", {_gain(best.values(board.score).mean(), rival.values(board.score).mean())} {rival.name}"
    figure.suptitle(finding, fontweight="bold")
    return _svg(figure)


def _groups(board: Leaderboard, standings: Sequence[Standing]) -> str:
    metric = board.names[0]
    styles = _styles(standings)
    figure, axes = _figure((11, _height(len(standings), 4.2)), len(GROUPS))
    titles = {"popularity": "training interactions of the target", "length": "items in the history"}
    for axis, kind in zip(axes, GROUPS, strict=True):
        names = list(standings[0].runs[0].groups[kind])
        for s in standings:
            heights = [s.group(kind, name, metric).mean() for name in names]
            axis.plot(names, heights, label=s.name, markersize=4, **styles[s.name])
        axis.set_xlabel(titles[kind])
        axis.set_ylabel(metric.upper())
        axis.set_ylim(bottom=0)
    axes[-1].legend(**LEGEND)
    figure.suptitle(_group_finding(board, standings), fontweight="bold")
    return _svg(figure)


def _group_finding(board: Leaderboard, standings: Sequence[Standing]) -> str:
    """Where the best row gains most against SASRec, among items that SASRec finds at all."""
    best, rival, metric = _best(standings, board.score), _rival(standings), board.names[0]
    if rival is None or rival is best:
        return f"{board.dataset}: {metric.upper()} by group of users"
    pairs = {
        name: (best.group("popularity", name, metric).mean(), rival.group("popularity", name, metric).mean())
        for name in best.runs[0].groups["popularity"]
    }
    gains = {name: mine / its - 1 for name, (mine, its) in pairs.items() if its > 0}
    if not gains:
        return f"{board.dataset}: {metric.upper()} by group of users"
    name = max(gains, key=lambda n: gains[n])
    return f"{best.name} gains most on items with {name} training interactions: {gains[name]:+.0%} {metric.upper()} against {rival.name}"


def _curves(board: Leaderboard, standings: Sequence[Standing]) -> str:
    figure, (axis,) = _figure((8.5, _height(len(standings), 4)))
    styles = _styles(standings)
    for s in standings:
        curve = s.runs[0].curve
        if curve:
            style = styles[s.name]
            axis.plot(range(1, len(curve) + 1), curve, label=s.name, color=style["color"], linestyle=style["linestyle"])
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"validation {board.score.upper()}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.lines:
        axis.legend(**LEGEND)
    axis.set_title(_curve_finding(board, standings), fontweight="bold")
    return _svg(figure)


def _curve_finding(board: Leaderboard, standings: Sequence[Standing]) -> str:
    best, rival = _best(standings, board.score), _rival(standings)
    mine = best.runs[0].curve
    if rival is None or rival is best or not mine or not rival.runs[0].curve:
        return f"{board.dataset}: validation by epoch"
    goal = max(rival.runs[0].curve)
    epoch = next((i for i, value in enumerate(mine, 1) if value >= goal), None)
    if epoch is None:
        return f"{best.name} stays below {rival.name} on validation"
    return f"{best.name} passes the best of {rival.name} after {epoch} epoch{'s' if epoch > 1 else ''}"


def _cost(board: Leaderboard, standings: Sequence[Standing]) -> str:
    from matplotlib.ticker import LogFormatter

    figure, (axis,) = _figure((8.5, _height(len(standings), 4)))
    styles = _styles(standings)
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
        axis.legend(**LEGEND)
    best = _best(standings, board.score)
    finding = f"{best.name}: {board.score.upper()} {best.values(board.score).mean():.4f} in {seconds(best):.0f} s a run"
    axis.set_title(finding, fontweight="bold")
    return _svg(figure)
