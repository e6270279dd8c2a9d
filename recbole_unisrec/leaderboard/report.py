"""The leaderboard as a table to read, a page to open, and plots."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import write_text
from recbole_unisrec.evaluation import POPULARITY, group_names
from recbole_unisrec.leaderboard.published import RECALLED, published
from recbole_unisrec.leaderboard.rows import RATES, Row
from recbole_unisrec.leaderboard.runner import Leaderboard, Standing
from recbole_unisrec.leaderboard.stats import compare, per_user

SIGNIFICANT = 0.01
# colour-blind safe (Okabe and Ito)
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"]

Header = list[str]
Cells = list[list[str]]


def spread(values: np.ndarray) -> float:
    """Standard deviation over seeds (of a sample), 0 for a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def marks(standings: Sequence[Standing], metric: str) -> dict[str, str]:
    """``best`` and ``second`` by the mean over seeds."""
    order = sorted(standings, key=lambda s: -s.values(metric).mean())
    return {s.name: kind for s, kind in zip(order, ("best", "second"), strict=False)} if len(order) > 1 else {}


def standings_of(board: Leaderboard, rows: dict[str, Row], tuned: dict[str, bool]) -> list[Standing]:
    """The finished ones of these rows, by whatever process.

    `tuned` says of some rows whether the choice among their grid points is meant or the property files' settings; of
    the others the way with more finished seeds is taken.
    """
    found = []
    for name, row in rows.items():
        ways = [tuned[name]] if name in tuned else [True, False]
        standings = [s for way in ways if (s := board.finished(row, way))]
        found += [max(standings, key=lambda s: len(s.runs))] if standings else []
    return found


def live_table(board: Leaderboard, standings: Sequence[Standing]) -> str:
    """Means and deviations over seeds as aligned text, for the terminal."""
    width = max(len(s.name) for s in standings)
    lines = [f"{'':{width}}  " + "  ".join(f"{n.upper():>14}" for n in board.names) + "  seeds  s a run"]
    for s in standings:
        cells = "  ".join(f"{s.values(n).mean():.4f} ±{spread(s.values(n)):.4f}".rjust(14) for n in board.names)
        seconds = np.median([run.seconds for run in s.runs])
        lines.append(f"{s.name:{width}}  {cells}  {len(s.runs):5}  {seconds:7.0f}")
    return "\n".join(lines)


def reference_of(standings: Sequence[Standing]) -> str | None:
    """The row that others are tested against: SASRec, RecBole's if it is there."""
    names = [s.name for s in standings]
    return next((name for name in ("SASRec", "SASRecPacked") if name in names), None)


def comparison_table(board: Leaderboard, standings: Sequence[Standing], reference: str) -> tuple[Header, Cells]:
    """Every row against the reference in every metric: the change of the mean, and a paired test over users."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    for s in standings:
        ranks = board.ranks(s)
        rows[s.name] = {metric: per_user(ranks, *split_name(metric)) for metric in board.names}
    tests = compare(rows, reference)
    cells = [
        [name, *(f"{found[metric].relative:+.1%}, {p_value(found[metric].p)}" for metric in board.names)]
        for name, found in tests.items()
    ]
    return ["row", *(name.upper() for name in board.names)], cells


def split_name(metric: str) -> tuple[str, int]:
    """``hit@10`` as ("hit", 10)."""
    kind, _, k = metric.partition("@")
    return kind, int(k)


def main_table(board: Leaderboard, standings: Sequence[Standing], link: bool) -> tuple[Header, Cells]:
    """Header and cells of the main table; `link` makes the seeds links to their JSON files (Markdown)."""
    best = {metric: marks(standings, metric) for metric in board.names}
    header = ["row", *(n.upper() for n in board.names), "tuned to", "s a run", "runs"]
    header += [f"the paper's ({RECALLED})", "what it is"]
    cells = []
    for s in standings:
        row = [s.name]
        for metric in board.names:
            values = s.values(metric)
            text = f"{values.mean():.4f} ± {spread(values):.4f}"
            kind = best[metric].get(s.name)
            row.append(f"**{text}**" if kind == "best" else f"_{text}_" if kind == "second" else text)
        row.append(", ".join(f"{k} {v}" for k, v in s.chosen.items()) or "–")
        row.append(f"{np.median([run.seconds for run in s.runs]):.0f}")
        files = [f"runs/{s.name}/{run.key}.json" for run in s.runs]
        row.append(" ".join(f"[{run.seed}]({f})" if link else str(run.seed) for run, f in zip(s.runs, files, strict=True)))
        paper = published(board.dataset, s.name)
        row.append(" / ".join(f"{value:.4f}".lstrip("0") for value in paper) if paper else "–")
        row.append(s.row.about)
        cells.append(row)
    return header, cells


def p_value(p: float) -> str:
    """``p < 0.001``, or the value."""
    return "p < 0.001" if p < 1e-3 else f"p = {p:.3f}"


def group_table(board: Leaderboard, standings: Sequence[Standing], metric: str) -> tuple[Header, Cells]:
    """One metric by training interactions of the target item."""
    names = [n for n in group_names(POPULARITY) if n in board.groups(board.ranks(standings[0]), "popularity")]
    users = board.groups(board.ranks(standings[0]), "popularity")
    n_seeds = len(standings[0].runs)
    header = ["row", *(f"{n} ({int(users[n]['users'] / n_seeds):,} users)" for n in names)]
    found = {s.name: board.groups(board.ranks(s), "popularity") for s in standings}
    tops = {n: max(found[s.name][n][metric] for s in standings) for n in names}
    cells = []
    for s in standings:
        values = [found[s.name][n][metric] for n in names]
        cells.append(
            [s.name, *(f"**{v:.4f}**" if v == tops[n] and v > 0 else f"{v:.4f}" for n, v in zip(names, values, strict=True))]
        )
    return header, cells


def sections(board: Leaderboard, standings: Sequence[Standing], command: str, link: bool) -> list[Any]:
    """The report as a list of (kind, content), for either format."""
    facts = ", ".join(f"{value:,} {name}" for name, value in board.facts.items())
    first = next((s.runs[0] for s in standings if s.runs), None)
    made_with = ", ".join(f"{k} {v}" for k, v in (first.versions if first else {}).items())
    tuned = [s.name for s in standings if s.tuned]
    grid = f"was tuned on validation NDCG@10 with the first seed, over the learning rates {', '.join(map(str, RATES))}"
    n_seeds = max(len(s.runs) for s in standings)
    reference, against = reference_of(standings), []
    if reference is not None and len(standings) > 1:
        against = [
            ("head", f"Against {reference}"),
            ("text", "Change of the mean, and the p of a paired t-test over users (each user's mean over seeds), two-sided, "
             "Holm-corrected for the number of rows and metrics."),
            ("table", comparison_table(board, standings, reference)),
        ]  # fmt: skip
    parts: list[Any] = [
        ("title", f"Leaderboard of {board.dataset}"),
        ("text", f"{facts}. Leave-one-out, ranking over all items. Mean ± standard deviation over {n_seeds} seeds."),
        ("text", (f"{', '.join(tuned)} {grid}; the others have the property files' settings." if tuned
                  else "Settings are those of the property files; nothing was tuned.")
         + " The best figure of a column is bold, the second best italic."),
        ("table", main_table(board, standings, link)),
        *against,
        ("head", "By how often the item to find occurs in training"),
        ("text", "HIT@10; 0 is an item that never occurs in training."),
        ("table", group_table(board, standings, "hit@10")),
        ("text", "NDCG@10"),
        ("table", group_table(board, standings, "ndcg@10")),
        ("plots", None),
        ("head", "How it was made"),
        ("code", command),
        ("text", f"Settings for all rows: {', '.join(f'{k} = {v}' for k, v in board.overrides.items())}. {made_with}."),
    ]  # fmt: skip
    return parts


def markdown_table(header: Header, cells: Cells) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def markdown(board: Leaderboard, standings: Sequence[Standing], command: str) -> str:
    """The report in Markdown; plots are SVG files beside it."""
    out = []
    for kind, content in sections(board, standings, command, link=True):
        if kind == "title":
            out.append(f"# {content}")
        elif kind == "head":
            out.append(f"## {content}")
        elif kind == "table":
            out.append(markdown_table(*content))
        elif kind == "code":
            out.append(f"```sh\n{content}\n```")
        elif kind == "plots":
            out.append("\n\n".join(f"![{title}]({name}.svg)" for name, title, _ in plots(board, standings)))
        else:
            out.append(content)
    return "\n\n".join(out) + "\n"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
.wide { overflow-x: auto; margin: 1rem 0; } th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; }
th { text-align: left; background: #f4f4f4; } td:first-child { white-space: nowrap; font-weight: 600; }
td { white-space: nowrap; } figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; } b { color: #00518a; }
@media (prefers-color-scheme: dark) { body { background: #fff; } }
"""


def _cell(text: str) -> str:
    """The few Markdown marks of the tables as HTML."""
    if text.startswith("**") and text.endswith("**"):
        return f"<b>{html.escape(text[2:-2])}</b>"
    if text.startswith("_") and text.endswith("_"):
        return f"<i>{html.escape(text[1:-1])}</i>"
    return html.escape(text)


def _seeds(row: Standing) -> str:
    return " ".join(f'<a href="runs/{row.name}/{run.key}.json">{run.seed}</a>' for run in row.runs)


def page(board: Leaderboard, standings: Sequence[Standing], command: str) -> str:
    """The report as one HTML page that needs nothing else (the seeds link to the JSON files of their runs)."""
    out = []
    for kind, content in sections(board, standings, command, link=False):
        if kind in ("title", "head"):
            level = 1 if kind == "title" else 2
            out.append(f"<h{level}>{html.escape(content)}</h{level}>")
        elif kind == "table":
            header, cells = content
            head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
            rows = []
            by_name = {standing.name: standing for standing in standings}
            for row in cells:
                links = {header.index("runs"): _seeds(by_name[row[0]])} if "runs" in header else {}
                tds = "".join(f"<td>{links.get(i) or _cell(cell)}</td>" for i, cell in enumerate(row))
                rows.append(f"<tr>{tds}</tr>")
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            out.append(f'<div class="wide">{table}</div>')
        elif kind == "code":
            out.append(f"<pre>{html.escape(content)}</pre>")
        elif kind == "plots":
            figures = plots(board, standings)
            out += [f"<figure><figcaption>{html.escape(t)}</figcaption>{svg}</figure>" for _, t, svg in figures]
        else:
            out.append(f"<p>{html.escape(content)}</p>")
    title = f"Leaderboard of {html.escape(board.dataset)}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{''.join(out)}</body></html>\n"
    )


def plots(board: Leaderboard, standings: Sequence[Standing]) -> list[tuple[str, str, str]]:
    """(file name, title, SVG) of each plot."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "leaderboard", "font.size": 9}):
        return [
            ("metrics", "Test metrics, mean and standard deviation over seeds", _bars(board, standings)),
            ("groups", "HIT@10 by training interactions of the item to find", _groups(board, standings)),
            ("curves", "Validation NDCG@10 by epoch, first seed", _curves(standings)),
            ("cost", "Seconds of training and evaluation against NDCG@10", _cost(standings)),
        ]


def _figure(n: int = 1, size: tuple[float, float] = (7.5, 3.6)) -> tuple[Any, list[Any]]:
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


def _bars(board: Leaderboard, standings: Sequence[Standing]) -> str:
    figure, axes = _figure(len(board.names), (11, 0.6 + 0.36 * len(standings)))
    names = [s.name for s in standings]
    for axis, metric in zip(axes, board.names, strict=True):
        values = [s.values(metric) for s in standings]
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(standings))]
        axis.barh(names, [v.mean() for v in values], xerr=[spread(v) for v in values], color=colours, capsize=2)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(metric.upper())
        if axis is not axes[0]:
            axis.set_yticklabels([])
    return _svg(figure)


def _groups(board: Leaderboard, standings: Sequence[Standing]) -> str:
    figure, (axis,) = _figure(size=(8.5, 4))
    for i, s in enumerate(standings):
        found = board.groups(board.ranks(s), "popularity")
        heights = [found[name]["hit@10"] for name in found]
        axis.plot(list(found), heights, marker="o", label=s.name, color=COLOURS[i % len(COLOURS)])
    axis.set_xlabel("training interactions of the item")
    axis.set_ylabel("HIT@10")
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _curves(standings: Sequence[Standing]) -> str:
    figure, (axis,) = _figure(size=(8.5, 4))
    for i, s in enumerate(standings):
        curve = s.runs[0].curve
        if curve:
            axis.plot(range(1, len(curve) + 1), curve, label=s.name, color=COLOURS[i % len(COLOURS)])
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation NDCG@10")
    if axis.lines:
        axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _cost(standings: Sequence[Standing]) -> str:
    figure, (axis,) = _figure(size=(7.5, 4))
    for i, s in enumerate(standings):
        if s.row.model:
            seconds, score = np.median([run.seconds for run in s.runs]), s.values("ndcg@10").mean()
            axis.scatter([seconds], [score], color=COLOURS[i % len(COLOURS)])
            axis.annotate(s.name, (seconds, score), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axis.set_xscale("log")
    axis.set_xlabel("seconds of a run (log)")
    axis.set_ylabel("test NDCG@10")
    axis.margins(x=0.25)
    return _svg(figure)


def write(board: Leaderboard, standings: Sequence[Standing], command: str) -> Path:
    """Write ``report.md``, ``report.html`` and the plots into the board's folder; gives the page's path."""
    for name, _, svg in plots(board, standings):
        write_text(board.folder / f"{name}.svg", svg)
    write_text(board.folder / "report.md", markdown(board, standings, command))
    target = board.folder / "report.html"
    write_text(target, page(board, standings, command))
    return target
