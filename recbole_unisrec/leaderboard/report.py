"""The leaderboard as a table to read and a page to open; every figure links to the JSON that it was taken from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import write_text
from recbole_unisrec.data.feature_files import feature_paths
from recbole_unisrec.data.features import read_meta
from recbole_unisrec.evaluation import group_names
from recbole_unisrec.leaderboard.blocks import Block, Cell, markdown, p_value
from recbole_unisrec.leaderboard.live import marks, seconds, spread
from recbole_unisrec.leaderboard.page import page
from recbole_unisrec.leaderboard.plots import plots
from recbole_unisrec.leaderboard.published import TOPK, published, rivals
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.leaderboard.runner import Leaderboard
from recbole_unisrec.leaderboard.runs import GROUPS, Standing
from recbole_unisrec.leaderboard.stats import Comparison, compare, per_user
from recbole_unisrec.leaderboard.texts import BEYOND_TEXT, cold_text, split_text

Comparisons = dict[str, dict[str, Comparison]]


def standings_of(board: Leaderboard, rows: dict[str, Row], tuned: dict[str, bool]) -> list[Standing]:
    """The finished ones of these rows, by whatever process.

    `tuned` says of some rows whether the choice among their grid points is meant or the property files' settings; of
    the others the way with more finished seeds is taken.
    """
    found = []
    for name, row in rows.items():
        untuned_alone = set(row.grid) & set(board.given)  # its value was given, so nobody tuned it
        ways = [tuned[name]] if name in tuned else [False] if untuned_alone else [True, False]
        standings = [s for way in ways if (s := board.finished(row, way))]
        found += [max(standings, key=lambda s: len(s.runs))] if standings else []
    return found


def reference_of(standings: Sequence[Standing]) -> str | None:
    """The row that others are tested against: SASRec, RecBole's if it is there."""
    names = [s.name for s in standings]
    return next((name for name in ("SASRec", "SASRecPacked") if name in names), None)


def run_file(standing: Standing, key: str) -> str:
    """The JSON of a run, from the report's folder."""
    return f"runs/{standing.name}/{key}.json"


def row_file(standing: Standing) -> str:
    """The JSON of a row (means over its runs), from the report's folder."""
    return f"rows/{standing.name}.json"


class Report:
    """What a board's finished rows say, ready to be written.

    Parameters
    ----------
    board, standings
        The board, and rows of it with one finished run or more.
    command
        What was typed.
    against
        The row that others are tested against; SASRec's if it is empty or has no runs.
    """

    def __init__(self, board: Leaderboard, standings: Sequence[Standing], command: str, against: str = "") -> None:
        self.board, self.standings, self.command = board, standings, command
        self.values = {s.name: self._per_user(s) for s in standings}
        self.reference = against if against in self.values else reference_of(standings)
        self.against: Comparisons = compare(self.values, self.reference) if self.reference else {}
        self.plots = plots(board, standings)

    def _per_user(self, standing: Standing) -> dict[str, np.ndarray]:
        ranks = self.board.ranks(standing)
        return {metric: per_user(ranks, *split_name(metric), self.board.users.user) for metric in self.board.names}

    def figure(self, standing: Standing, values: np.ndarray, mark: str = "") -> Cell:
        """Mean and deviation over seeds, linked to the row's JSON."""
        deviation = f" ± {spread(values):.4f}" if len(values) > 1 else ""
        return Cell(f"{values.mean():.4f}{deviation}", mark, (("", row_file(standing)),))

    def main(self) -> Block:
        """The main table."""
        board = self.board
        best = {metric: marks(self.standings, metric) for metric in board.names}
        header = ["row", *(n.upper() for n in board.names), "tuned to", "parameters", "s a run", "runs (by seed)"]
        paper = {s.name: published(board.dataset, board.facts["users"], s.name) for s in self.standings}
        with_paper = board.topk == TOPK and any(paper.values())
        header += ["the paper's"] * with_paper + ["what it is"]
        rows = []
        for s in self.standings:
            files = tuple((str(run.seed), run_file(s, run.key)) for run in s.runs)
            missing = len(board.seeds) - len(s.runs) if s.row.seeded else 0
            cells = [
                Cell(s.name, name=True),
                *(self.figure(s, s.values(m), best[m].get(s.name, "")) for m in board.names),
                Cell(", ".join(f"{k} {v}" for k, v in s.chosen.items()) or "–"),
                Cell(f"{s.runs[0].n_parameters:,}", links=(("", run_file(s, s.runs[0].key)),)),
                Cell(f"{seconds(s):.0f}", links=(("", row_file(s)),)),
                Cell(f" ({missing} missing)" if missing else "", links=files),
            ]
            if with_paper:
                text = " / ".join(f"{v:.4f}".lstrip("0") for v in paper[s.name] or ())
                # the paper's UniSRec is pre-trained, with its encoder frozen
                scratch = bool(text) and s.row.model == "UniSRec" and not s.row.pretrained
                cells.append(Cell(f"{text or '–'}{' (pre-trained)' if scratch else ''}"))
            about = s.row.about + (f" ({self.encoder(s)})" if "plm_suffix" in s.row.settings else "")
            rows.append((*cells, Cell(about, name=True)))
        return Block("table", header=tuple(header), rows=tuple(rows))

    def published(self) -> list[Block]:
        """What others published on the dataset, where the cut-offs are theirs."""
        found = rivals(self.board.dataset, self.board.facts["users"]) if self.board.topk == TOPK else []
        if not found:
            return []
        rows = tuple(
            (
                Cell(r.model, name=True),
                *(Cell("–" if value is None else f"{value:.4f}") for value in r.values),
                Cell(r.source, name=True),
                Cell(r.protocol, name=True),
            )
            for r in found
        )
        header = ("model", "HIT@10", "NDCG@10", "HIT@50", "NDCG@50", "where it stands", "protocol")
        return [Block("head", "Published by others"), Block("table", header=header, rows=rows)]

    def encoder(self, standing: Standing) -> str:
        """Who made the text features of a row."""
        config = standing.runs[0].config
        files = feature_paths(Path(config["data_path"]), self.board.dataset, config["plm_suffix"])
        metas = [read_meta(file) for file in files]
        return " + ".join(
            f"{meta.get('encoder', 'unknown encoder')}, {meta.get('pooling', 'unknown pooling')}" for meta in metas
        )

    def comparison(self, found: Comparisons) -> Block:
        """Rows against another row, in every metric."""
        by_name = {s.name: s for s in self.standings}
        rows = []
        for name, metrics in found.items():
            cells = [
                Cell(f"{c.relative:+.1%}, {p_value(c.p)}", links=(("", row_file(by_name[name])),))
                for c in metrics.values()
            ]
            rows.append((Cell(name, name=True), *cells))
        return Block("table", header=("row", *(n.upper() for n in self.board.names)), rows=tuple(rows))

    def ablations(self) -> list[Block]:
        """Rows that differ from another in one thing, against that one."""
        names = [s.name for s in self.standings]
        pairs = [(s.name, s.row.of) for s in self.standings if s.row.of in names]
        blocks = []
        for base in dict.fromkeys(of for _, of in pairs):
            mine = [name for name, of in pairs if of == base]
            found = compare({name: self.values[name] for name in (base, *mine)}, base)
            blocks += [
                Block("text", f"Against {base}, tested as above, Holm-corrected within this table:"),
                self.comparison(found),
            ]
        return [Block("head", "Ablations"), *blocks] if blocks else []

    def beyond(self) -> Block:
        """What is recommended, rather than whether it is right."""
        names = self.board.beyond_names
        rows = tuple(
            (Cell(s.name, name=True), *(self.figure(s, s.values(name)) for name in names)) for s in self.standings
        )
        return Block("table", header=("row", *names), rows=rows)

    def groups(self, kind: str, metric: str) -> Block:
        """One metric by group of test users."""
        first = self.standings[0].runs[0].groups[kind]
        names = [name for name in group_names(GROUPS[kind]) if name in first]
        header = ("row", *(f"{name} ({first[name]['users']:,} users)" for name in names))
        means = {(s.name, n): s.group(kind, n, metric).mean() for s in self.standings for n in names}
        tops = {n: max(means[s.name, n] for s in self.standings) for n in names}
        rows = []
        for s in self.standings:
            cells = (
                Cell(f"{means[s.name, n]:.4f}", "best" if 0 < means[s.name, n] == tops[n] else "", (("", row_file(s)),))
                for n in names
            )
            rows.append((Cell(s.name, name=True), *cells))
        return Block("table", header=header, rows=tuple(rows))

    def tuning(self) -> list[Block]:
        """What was tried for each tuned row, and what was chosen."""
        tuned = [s for s in self.standings if s.tuned]
        rest = [s.name for s in self.standings if not s.tuned and s.row.model]
        if not tuned:
            return [Block("text", "Nothing was tuned: settings are those of the property files.")]
        score = self.board.score.upper()
        rows = []
        for s in tuned:
            links = ((run, run_file(s, run.key), run.key == s.runs[0].key) for run in s.tuning)
            cells = [
                Cell(
                    f"{', '.join(f'{k} {v}' for k, v in run.point.items())}: {run.valid_score:.4f}",
                    "best" if best else "",
                    (("", file),),
                )
                for run, file, best in links
            ]
            rows.append((Cell(s.name, name=True), *cells))
        width = max(len(row) for row in rows)
        padded = tuple((*row, *(Cell("") for _ in range(width - len(row)))) for row in rows)
        text = f"Validation {score} of the first seed for each point of a row's grid; the best one (bold) is run with all seeds."
        if rest:
            text += f" Not tuned: {', '.join(rest)}, with the property files' settings."
        return [
            Block("text", text),
            Block("table", header=("row", *(f"point {i}" for i in range(1, width))), rows=padded),
        ]

    def blocks(self) -> list[Block]:
        """The report, piece by piece."""
        board = self.board
        facts = ", ".join(f"{value:,} {name}" for name, value in board.facts.items())
        seeds = max(len(s.runs) for s in self.standings)
        found = [
            Block("title", f"Leaderboard of {board.dataset}"),
            Block("text", f"{facts}. {split_text(board)}, ranking over all items. Mean ± standard deviation over {seeds} seeds; "
                  "the best figure of a column is bold, the second best italic. Each figure links to the JSON that it comes from."),
        ]  # fmt: skip
        if board.overrides.get("cold_items"):
            found.append(Block("text", cold_text(board)))
        if share := board.overrides.get("train_users"):
            found.append(
                Block(
                    "text",
                    f"Little data: every row learned from the same {share:.0%} of the users, drawn at random; "
                    "validation and test are over all.",
                )
            )
        found += [self.main(), Block("plot", "metrics")]
        if self.against:
            found += [
                Block("head", f"Against {self.reference}"),
                Block("text", "Change of the mean, and the p of a paired t-test over users (each user's mean over seeds"
                      f"{' and items to find' if 'items to find' in board.facts else ''}), "
                      "two-sided, Holm-corrected for the number of rows and metrics."),
                self.comparison(self.against),
            ]  # fmt: skip
        if board.beyond:
            found += [Block("head", "Beyond accuracy"), Block("text", BEYOND_TEXT), self.beyond()]
        found += self.ablations() + self.published()
        first, second = board.names[:2]
        for kind, head, text in (
            (
                "popularity",
                "By how often the item to find occurs in training",
                "; 0 is an item that never occurs in training",
            ),
            ("length", "By the length of the history", ", in items"),
        ):
            found.append(Block("head", head))
            for metric, more in ((first, text), (second, "")):
                found += [Block("text", f"{metric.upper()}{more}"), self.groups(kind, metric)]
        found += [Block("plot", "groups"), Block("head", "Tuning"), *self.tuning()]
        found += [Block("head", "Learning and cost"), Block("plot", "curves"), Block("plot", "cost")]
        shared = ", ".join(f"{k} = {v}" for k, v in board.overrides.items())
        versions = ", ".join(f"{k} {v}" for k, v in self.standings[-1].runs[0].versions.items())
        return [
            *found,
            Block("head", "How it was made"),
            Block("code", self.command),
            Block("text", f"Settings for all rows: {shared}. {versions}."),
        ]

    def row_json(self, standing: Standing) -> dict[str, Any]:
        """What the tables say of a row, with the files of its runs."""
        return {
            "row": standing.name,
            "about": standing.row.about,
            "settings": standing.row.settings,
            "chosen": standing.chosen,
            "metrics": {
                m: {
                    "mean": float(standing.values(m).mean()),
                    "std": spread(standing.values(m)),
                    "seeds": {str(run.seed): run.test[m] for run in standing.runs},
                }
                for m in self.board.names
            },
            "groups": {
                kind: {
                    name: {m: float(standing.group(kind, name, m).mean()) for m in ("users", *self.board.names)}
                    for name in standing.runs[0].groups[kind]
                }
                for kind in GROUPS
            },
            f"against {self.reference}": {m: vars(c) for m, c in self.against.get(standing.name, {}).items()},
            "median_seconds": seconds(standing),
            "runs": {str(run.seed): f"../{run_file(standing, run.key)}" for run in standing.runs},
            "tuning": [f"../{run_file(standing, run.key)}" for run in standing.tuning],
        }

    def write(self) -> Path:
        """Write ``report.md``, ``report.html``, the plots and ``rows/`` into the board's folder; gives the page's path."""
        folder = self.board.folder
        for standing in self.standings:
            write_text(folder / row_file(standing), json.dumps(self.row_json(standing), indent=1) + "\n")
        for plot in self.plots:
            write_text(folder / f"{plot.name}.svg", plot.svg)
        blocks = self.blocks()
        write_text(folder / "report.md", markdown(blocks, self.plots))
        target = folder / "report.html"
        write_text(target, page(blocks, self.plots))
        return target


def split_name(metric: str) -> tuple[str, int]:
    """``hit@10`` as ("hit", 10)."""
    kind, _, k = metric.partition("@")
    return kind, int(k)
