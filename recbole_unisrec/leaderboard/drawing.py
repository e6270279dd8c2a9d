"""What all plots of a leaderboard share: colours that say what a row is, empty axes, and the SVG text."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from recbole_unisrec.leaderboard.rows import Row

# what a colour says (colour-blind safe, Okabe and Ito); rows of one kind differ by their shade and line
COLOURS = {"ours": "#D55E00", "the paper's UniSRec": "#0072B2", "rival": "#7F7F7F", "no training": "#56B4E9"}
LINES = ["-", "--", ":", "-."]
POINTS = ["o", "s", "^", "D"]
SHADES = [1.0, 0.6, 0.8, 0.45]
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False, "loc": "upper left", "bbox_to_anchor": (1, 1)}

LETTERS = 11  # of a title that fit on an inch


@contextmanager
def svg_settings() -> Iterator[None]:
    """Letters as paths, so that a plot looks the same everywhere; equal plots are equal files."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "leaderboard", "font.size": 9}):
        yield


def styles_of(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each row: the colour by its kind, the rest by its place among its kind."""
    from matplotlib.colors import to_rgb

    found: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        i = seen[row.kind] = seen.get(row.kind, -1) + 1
        shade = SHADES[i // len(LINES) % len(SHADES)]
        colour = tuple(1 - (1 - part) * shade for part in to_rgb(COLOURS[row.kind]))
        found[row.name] = {"color": colour, "linestyle": LINES[i % len(LINES)], "marker": POINTS[i % len(POINTS)]}
    return found


def empty_figure(size: tuple[float, float], n: int = 1, columns: int = 0) -> tuple[Any, list[Any]]:
    """A figure with n axes, side by side or in rows of so many columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    columns = columns or n
    axes = [figure.add_subplot(-(-n // columns), columns, i + 1) for i in range(n)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    return figure, axes


def bars(axis: Any, rows: Sequence[Row], means: Sequence[float], deviations: Sequence[float]) -> None:
    """Horizontal bars with their values, in the colours of the rows' kinds; nan draws none and says so."""
    shown = [0.0 if mean != mean else mean for mean in means]
    drawn = axis.barh(
        [row.name for row in rows],
        shown,
        xerr=deviations,
        color=[COLOURS[row.kind] for row in rows],
        error_kw={"lw": 0.8, "capsize": 2},
    )
    labels = [" –" if mean != mean else f" {mean:.4f}".replace("0.", ".", 1) for mean in means]
    axis.bar_label(drawn, labels, fontsize=7.5, padding=3)
    axis.set_xlim(0, max((m + d for m, d in zip(shown, deviations, strict=True)), default=0) * 1.3 or 1)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.grid(axis="y", visible=False)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)


def legend_of_kinds(figure: Any, rows: Sequence[Row]) -> None:
    """What the colours say, below the axes."""
    from matplotlib.patches import Patch

    kinds = [kind for kind in COLOURS if any(row.kind == kind for row in rows)]
    patches = [Patch(color=COLOURS[kind]) for kind in kinds]
    figure.legend(patches, kinds, loc="outside lower center", ncols=len(kinds), frameon=False)


def title(figure: Any, finding: str) -> None:
    """The finding above all axes, in as many lines as the width asks for."""
    inches = figure.get_size_inches()[0]
    figure.suptitle("\n".join(textwrap.wrap(finding, max(30, int(LETTERS * inches)))), fontweight="bold")


def svg_of(figure: Any) -> str:
    """The figure as an ``<svg>`` element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def height_of(n: int, least: float) -> float:
    """Of a figure with n rows in its legend, in inches."""
    return max(least, 0.5 + 0.2 * n)
