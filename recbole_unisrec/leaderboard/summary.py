"""Several datasets in one report: rows against targets, mean ranks, wins and losses, relative gains, and little data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_tools.common import write_text
from recbole_unisrec.errors import UserError
from recbole_unisrec.leaderboard.blocks import Block, Cell, Plot, markdown, p_value
from recbole_unisrec.leaderboard.live import marks, spread
from recbole_unisrec.leaderboard.page import page
from recbole_unisrec.leaderboard.published import TOPK, rivals
from recbole_unisrec.leaderboard.rows import ROWS
from recbole_unisrec.leaderboard.stats import Comparison
from recbole_unisrec.leaderboard.summary_plots import plots
from recbole_unisrec.leaderboard.versus import ALPHA, SetResult, Tally, Test, mean_ranks, share_text, tally, tests_of

NONE = "–"
REFERENCES = ("text-kNN", "SASRec", "SASRecPacked")  # the first that every dataset has, unless one is named


def reference_of(results: Sequence[SetResult]) -> list[str]:
    """The row to compare with where none is named: the first of `REFERENCES` that most datasets have."""
    counts = {name: sum(name in result.rows for result in results) for name in REFERENCES}
    most = max(counts.values(), default=0)
    return [next(name for name, count in counts.items() if count == most)] if most else []


class Summary:
    """What the rows of several datasets say together, ready to be written.

    Parameters
    ----------
    results
        One for each dataset, and others of rows that learned from a share of its users.
    against
        Rows to compare with; empty: `reference_of`.
    command
        What was typed.

    Raises
    ------
    UserError
        If there is nothing to report, metrics differ, or no dataset has a row of `against`.
    """

    def __init__(self, results: Sequence[SetResult], against: Sequence[str], command: str) -> None:
        self.full = max((result.share for result in results), default=0.0)
        self.sets = [result for result in results if result.share == self.full]
        self.shares = [result for result in results if result.share != self.full]
        if not self.sets:
            raise UserError("no dataset has a finished run; give folders of leaderboards that have some")
        names = [result.dataset for result in self.sets]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{twice[0]} is there twice; give each dataset once")
        if len({tuple(result.names) for result in results}) > 1:
            said = "; ".join(f"{r.dataset} {', '.join(r.names)}" for r in results)
            raise UserError(f"the datasets have different metrics ({said}); take the same --topk for all")
        self.command = command
        self.metrics = [self.sets[0].score, *(n for n in self.sets[0].names if n != self.sets[0].score)]
        self.against = list(against) or reference_of(self.sets)
        known = {name for result in self.sets for name in result.rows}
        for name in self.against:
            if name not in known:
                raise UserError(f"no dataset has a finished run of {name}; rows are {', '.join(self._order(known))}")
        self.rows = self._order(known)
        self.tests = tests_of([*self.sets, *self.shares], self.against)
        self.plots: list[Plot] = plots(self.sets, self.shares, self.rows, self.against, self.metrics[0])

    @staticmethod
    def _order(names: set[str]) -> list[str]:
        place = {name: i for i, name in enumerate(ROWS)}
        return sorted(names, key=lambda name: (place.get(name.partition("@")[0], len(place)), name))

    def _test(self, place: int, row: str, base: str, metric: str) -> Comparison | None:
        return self.tests.get(Test(place, row, base, metric))

    def _tally(self, row: str, base: str, metric: str) -> Tally | None:
        of_sets = {test: c for test, c in self.tests.items() if test.place < len(self.sets)}
        found = tally(of_sets, row, base, metric)
        return found if found.wins + found.ties + found.losses else None

    # --- tables

    def facts(self) -> Block:
        """One line for each dataset."""
        rows = tuple(
            (
                Cell(r.dataset, links=(("", r.page),) if r.page else (), name=True),
                Cell(f"{r.n_users:,}"),
                Cell(f"{r.n_pairs:,}"),
                Cell(str(len(r.rows))),
                Cell(seeds_text([len(s.runs) for s in r.standings if s.row.seeded])),
            )
            for r in self.sets
        )
        return Block("table", header=("dataset", "test users", "items to find", "rows", "seeds"), rows=rows)

    def figures(self, metric: str) -> Block:
        """One metric: rows down, datasets across; then mean rank, and each reference's gain and wins."""
        marked_rows = [marks(result.standings, metric) for result in self.sets]
        ranks = mean_ranks(self.sets, metric)
        best = min(ranks.values(), default=0.0)
        header = ["row", *(result.dataset for result in self.sets), "mean rank"]
        for base in self.against:
            header += [f"gain over {base}", "wins/ties/losses"]
        rows = []
        for name in self.rows:
            cells = [Cell(name, name=True)]
            for result, marked in zip(self.sets, marked_rows, strict=True):
                if name not in result.rows:
                    cells.append(Cell(NONE))
                    continue
                values = result.rows[name].values(metric)
                deviation = f" ± {spread(values):.4f}" if len(values) > 1 else ""
                cells.append(Cell(f"{values.mean():.4f}{deviation}", marked.get(name, "")))
            rank = ranks.get(name)
            cells.append(Cell(NONE if rank is None else f"{rank:.1f}", "best" if rank == best else ""))
            for base in self.against:
                found = self._tally(name, base, metric)
                cells.append(Cell(NONE if found is None or math.isnan(found.gain) else f"{found.gain:+.1%}"))
                cells.append(Cell(NONE if found is None else f"{found.wins}/{found.ties}/{found.losses}"))
            rows.append(tuple(cells))
        return Block("table", header=tuple(header), rows=tuple(rows))

    def gains(self, base: str, metric: str) -> Block:
        """Change against one row on each dataset, with p."""
        rows = []
        for name in self.rows:
            cells = [change(self._test(place, name, base, metric)) for place in range(len(self.sets))]
            if any(cell.text != NONE for cell in cells):
                rows.append((Cell(name, name=True), *cells))
        return Block("table", header=("row", *(result.dataset for result in self.sets)), rows=tuple(rows))

    def variants(self, metric: str) -> Block | None:
        """Rows against the row that each is a variant of."""
        rows = []
        for name in self.rows:
            base = next((result.rows[name].row.of for result in self.sets if name in result.rows), "")
            if not base:
                continue
            cells = [change(self._test(place, name, base, metric)) for place in range(len(self.sets))]
            if any(cell.text != NONE for cell in cells):
                found = self._tally(name, base, metric)
                gain = NONE if found is None or math.isnan(found.gain) else f"{found.gain:+.1%}"
                rows.append((Cell(name, name=True), Cell(base, name=True), *cells, Cell(gain)))
        if not rows:
            return None
        header = ("row", "against", *(result.dataset for result in self.sets), "mean gain")
        return Block("table", header=header, rows=tuple(rows))

    def little_data(self, metric: str) -> Block | None:
        """One metric by the share of the users that a row learned from."""
        if not self.shares:
            return None
        columns: list[tuple[str, int, SetResult]] = []
        for full in self.sets:
            mine = [(n, r) for n, r in enumerate(self.shares, len(self.sets)) if r.dataset == full.dataset]
            if mine:
                mine += [(self.sets.index(full), full)]
                columns += [
                    (f"{full.dataset}, {share_text(r.share)}", n, r) for n, r in sorted(mine, key=lambda x: x[1].share)
                ]
        wanted = self._order({name for result in self.shares for name in result.rows})
        rows = []
        for name in wanted:
            cells = [Cell(name, name=True)]
            for _, place, result in columns:
                if name not in result.rows:
                    cells.append(Cell(NONE))
                    continue
                text = f"{result.rows[name].values(metric).mean():.4f}"
                found = self._test(place, name, self.against[0], metric) if self.against else None
                change_text = f" ({found.relative:+.1%}, {p_value(found.p)})" if found else ""
                cells.append(Cell(text + change_text, marks(result.standings, metric).get(name, "")))
            rows.append(tuple(cells))
        return Block("table", header=("row", *(name for name, _, _ in columns)), rows=tuple(rows))

    def published(self) -> Block | None:
        """What others published on these datasets."""
        if {f"{m}@{k}" for k in TOPK for m in ("hit", "ndcg")} != set(self.metrics):
            return None
        rows = [
            (
                Cell(result.dataset, name=True),
                Cell(rival.model, name=True),
                *(Cell(NONE if value is None else f"{value:.4f}") for value in rival.values),
                Cell(rival.source, name=True),
                Cell(rival.protocol, name=True),
            )
            for result in self.sets
            for rival in rivals(result.dataset, result.n_users)
        ]
        header = ("dataset", "model", "HIT@10", "NDCG@10", "HIT@50", "NDCG@50", "where it stands", "protocol")
        return Block("table", header=header, rows=tuple(rows)) if rows else None

    def missing(self) -> str:
        """Which rows are not finished where."""
        lacking: dict[str, list[str]] = {}
        for name in self.rows:
            where = [result.dataset for result in self.sets if name not in result.rows]
            if where:
                lacking.setdefault(", ".join(where), []).append(name)
        said = [f"{', '.join(names)} on {where}" for where, names in lacking.items()]
        if not said:
            return ""
        return f"No finished run, shown as {NONE}: {'; '.join(said)}. A mean rank is among the rows that every dataset has."

    # --- the report

    def blocks(self) -> list[Block]:
        """The report, piece by piece."""
        score = self.metrics[0]
        n = len(self.sets)
        found = [
            Block("title", f"Leaderboard of {n} dataset{'s' if n > 1 else ''}"),
            self.facts(),
            Block("text", "Test part, ranking over all items, mean ± standard deviation over seeds. The best figure of a column is "
                  "bold, the second best italic."),
        ]  # fmt: skip
        if self.full != 1:
            found.append(Block("text", f"Little data: every row learned from {share_text(self.full)} of the users."))
        if other := "; ".join(dict.fromkeys(result.other for result in self.sets if result.other)):
            found.append(Block("text", f"Data: {other}."))
        if self.against:
            found.append(
                Block("text", f"A win or a loss against {' or '.join(self.against)} has p < {ALPHA:g} in a paired t-test over users "
                      f"(each user's mean over seeds), two-sided, Holm-corrected for all {len(self.tests):,} tests of this page. "
                      "A gain is the geometric mean over the datasets that have both rows."),
            )  # fmt: skip
        if said := self.missing():
            found.append(Block("text", said))
        found += [Block("plot", plot.name) for plot in self.plots[:1]]
        for metric in self.metrics:
            found += [Block("head", metric.upper()), self.figures(metric)]
            for base in self.against:
                found += [Block("text", f"Change in {metric.upper()} against {base}:"), self.gains(base, metric)]
        if table := self.variants(score):
            found += [Block("head", "What one change brings"), Block("text", f"{score.upper()} of each row against the row that it is a variant of."), table]  # fmt: skip
        if table := self.little_data(score):
            against = f" In brackets: against {self.against[0]} that learned from as many." if self.against else ""
            text = f"{score.upper()} by the share of the users that a row learned from; 0: nothing was trained on the dataset.{against}"
            found += [Block("head", "Little data"), Block("text", text), table]
            found += [Block("plot", plot.name) for plot in self.plots[1:]]
        if table := self.published():
            found += [Block("head", "Published by others"), table]
        return [*found, Block("head", "How it was made"), Block("code", self.command)]

    def json(self) -> dict[str, Any]:
        """All figures of the report, and every p."""
        return {
            "command": self.command,
            "metrics": self.metrics,
            "against": self.against,
            "alpha": ALPHA,
            "tests": len(self.tests),
            "rows": {
                name: {
                    metric: {
                        "mean_rank": mean_ranks(self.sets, metric).get(name),
                        **{f"against {base}": _plain(self._tally(name, base, metric)) for base in self.against},
                    }
                    for metric in self.metrics
                }
                for name in self.rows
            },
            "sets": [self._set_json(place, result) for place, result in enumerate([*self.sets, *self.shares])],
        }

    def _set_json(self, place: int, result: SetResult) -> dict[str, Any]:
        against: dict[str, dict[str, Any]] = {}
        for test, c in self.tests.items():
            if test.place == place:
                found = {"difference": c.difference, "relative": _finite(c.relative), "p": c.p}
                against.setdefault(test.row, {}).setdefault(f"against {test.base}", {})[test.metric] = found
        return {
            "dataset": result.dataset,
            "share_of_users": result.share,
            "test_users": result.n_users,
            "items_to_find": result.n_pairs,
            "rows": {
                name: {
                    "metrics": {
                        metric: {
                            "mean": float(s.values(metric).mean()),
                            "std": spread(s.values(metric)),
                            "seeds": {str(run.seed): run.test[metric] for run in s.runs},
                        }
                        for metric in self.metrics
                    },
                    "chosen": s.chosen,
                    **against.get(name, {}),
                }
                for name, s in result.rows.items()
            },
        }

    def write(self, folder: Path) -> Path:
        """Write ``summary.html``, ``summary.md``, ``summary.json`` and the plots; gives the page's path."""
        for plot in self.plots:
            write_text(folder / f"{plot.name}.svg", plot.svg)
        write_text(folder / "summary.json", json.dumps(self.json(), indent=1) + "\n")
        blocks = self.blocks()
        write_text(folder / "summary.md", markdown(blocks, self.plots))
        target = folder / "summary.html"
        write_text(target, page(blocks, self.plots))
        return target


def change(found: Comparison | None) -> Cell:
    """``+4.2%, p < .001``."""
    if found is None or math.isnan(found.relative):
        return Cell(NONE)
    return Cell(f"{found.relative:+.1%}, {p_value(found.p)}")


def seeds_text(counts: Sequence[int]) -> str:
    """``3``, or ``1 to 3`` where rows differ."""
    if not counts:
        return NONE
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _plain(found: Tally | None) -> dict[str, Any] | None:
    return None if found is None else {**vars(found), "gain": _finite(found.gain)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
