"""A leaderboard in progress: a table that is drawn anew in a terminal, lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recbole_unisrec.leaderboard.runner import Leaderboard
from recbole_unisrec.leaderboard.runs import Run, Standing

WIDE = 110  # columns of a terminal that has room for all metrics
MARKS = {"best": "bold green", "second": "italic cyan", "": ""}


def spread(values: np.ndarray) -> float:
    """Standard deviation over seeds (of a sample), 0 for a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def marks(standings: Sequence[Standing], metric: str) -> dict[str, str]:
    """``best`` and ``second`` by the mean over seeds."""
    order = sorted(standings, key=lambda s: -s.values(metric).mean())
    return {s.name: kind for s, kind in zip(order, ("best", "second"), strict=False)} if len(order) > 1 else {}


def text_table(board: Leaderboard, standings: Sequence[Standing]) -> str:
    """Means and deviations over seeds as aligned text."""
    width = max(len(s.name) for s in standings)
    lines = [f"{'':{width}}  " + "  ".join(f"{n.upper():>14}" for n in board.names) + "  seeds  s a run"]
    for s in standings:
        cells = "  ".join(f"{s.values(n).mean():.4f} ±{spread(s.values(n)):.4f}".rjust(14) for n in board.names)
        lines.append(f"{s.name:{width}}  {cells}  {len(s.runs):5}  {seconds(s):7.0f}")
    return "\n".join(lines)


def seconds(standing: Standing) -> float:
    """Median seconds of a run."""
    return float(np.median([run.seconds for run in standing.runs]))


class Watch:
    """Is told what a leaderboard does; prints a line for each thing, and a table when a row is complete."""

    def __init__(self, board: Leaderboard, standings: Callable[[], list[Standing]]) -> None:
        self.board, self.standings = board, standings
        self.news = False  # whether a run has ended since the last row was complete

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Leave the last table standing."""

    def tell(self, line: str) -> None:
        """What the run at work says."""
        print(line, flush=True)

    def begin(self, what: str) -> None:
        """A run starts."""

    def end(self, what: str, run: Run, known: bool) -> None:
        """A run is there."""
        self.news = self.news or not known
        score = f"valid {self.board.score.upper()} {run.valid_score:.4f}"
        self.tell(f"{what}: {score}{' (from before)' if known else ''}")

    def complete(self) -> None:
        """A row is complete, or the whole board is."""
        self.tell(f"\n{text_table(self.board, self.standings())}\n")


class LiveWatch(Watch):
    """The same in a terminal: one table that follows the runs, below it what is at work."""

    def __init__(
        self, board: Leaderboard, standings: Callable[[], list[Standing]], console: Console | None = None
    ) -> None:
        super().__init__(board, standings)
        self.console = console or Console()
        self.found: list[Standing] = []
        self.what, self.line = "", ""
        self.live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=2, transient=False)

    def __enter__(self) -> Watch:
        self.found = self.standings()
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.what, self.line = "", ""
        self.live.stop()

    def tell(self, line: str) -> None:
        self.line = " ".join(line.split())

    def begin(self, what: str) -> None:
        self.what, self.line = what, ""

    def end(self, what: str, run: Run, known: bool) -> None:
        self.news = self.news or not known
        if not known:
            self.console.print(f"{what}: valid {self.board.score.upper()} {run.valid_score:.4f}, {run.seconds:.0f} s")
        self.found = self.standings()

    def complete(self) -> None:
        self.found = self.standings()

    def _draw(self) -> Group:
        names = self.board.names if self.console.width >= WIDE else self.board.names[:2]
        table = Table("row", title=f"Leaderboard of {self.board.dataset}", title_justify="left")
        for name in names:
            table.add_column(name.upper(), justify="right", no_wrap=True)
        table.add_column("runs", justify="right", no_wrap=True)
        table.add_column("s a run", justify="right", no_wrap=True)
        kinds = {name: marks(self.found, name) for name in names}
        found = {s.name: s for s in self.found}
        for row in dict.fromkeys([*self.board.rows, *found]):
            standing, of = found.get(row), self.board.progress(row)
            if standing is None:
                table.add_row(row, *[""] * len(names), of, "")
                continue
            cells = []
            for name in names:
                values = standing.values(name)
                cells.append(Text(f"{values.mean():.4f} ±{spread(values):.4f}", MARKS[kinds[name].get(row, "")]))
            table.add_row(row, *cells, of or str(len(standing.runs)), f"{seconds(standing):.0f}")
        below = Text(f"{self.what}: {self.line}" if self.line else self.what, "dim", no_wrap=True, overflow="ellipsis")
        return Group(table, below)


def watch(board: Leaderboard, standings: Callable[[], list[Standing]]) -> Watch:
    """A `LiveWatch` in a terminal, else a `Watch`."""
    return LiveWatch(board, standings) if sys.stdout.isatty() else Watch(board, standings)
