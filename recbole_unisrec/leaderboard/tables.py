"""Tables and the summary from stored runs alone, without their datasets: no figure of the docs is typed by hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path

from dataset_tools.common import UserError, run_cli
from recbole_unisrec.leaderboard.archive import ENDING, StoredRun, write_archive
from recbole_unisrec.leaderboard.blocks import Block, Cell, cut, markdown_table, p_value
from recbole_unisrec.leaderboard.live import spread
from recbole_unisrec.leaderboard.stats import compare
from recbole_unisrec.leaderboard.stored import StoredBoard, is_stored, read_boards, read_runs
from recbole_unisrec.leaderboard.summary import Summary
from recbole_unisrec.leaderboard.versus import of_stored

AGAINST = "text-kNN"


def one_board(boards: Sequence[StoredBoard], share: float = 1.0, other: str = "") -> StoredBoard:
    """The one of these whose runs learned from a share of the users.

    Raises
    ------
    UserError
        If there are none, or they are of several datasets.
    """
    found = [board for board in boards if (board.condition.share, board.condition.other) == (share, other)]
    if len(found) != 1:
        there = "; ".join(str(board.condition) for board in boards)
        what = "several datasets have" if found else "no run is of"
        raise UserError(
            f"{what} a share of {share:g} of the users{' and ' + other if other else ''}; there are runs of {there}"
        )
    return found[0]


def table(
    boards: Sequence[StoredBoard], rows: Sequence[str], against: str = AGAINST, share: float = 1.0, other: str = ""
) -> str:
    """Rows of one dataset, metrics across, in the order of `rows` (empty: all, in the leaderboard's order).

    Mean and standard deviation over seeds; the change against a row with the p of a paired t-test over users (each user's
    mean over seeds), two-sided, Holm-corrected over the rows and metrics shown.

    Raises
    ------
    UserError
        If none of the rows has a run.
    """
    board = one_board(boards, share, other)
    result = of_stored(board, [*rows, against] if rows else ())
    shown = [row for row in rows if row in result.rows] if rows else list(result.rows)
    if not shown:
        known = ", ".join(s.name for s in board.standings)
        raise UserError(f"{board.condition} has no finished run of {', '.join(rows)}; its rows are {known}")
    values = {name: result.values[name] for name in dict.fromkeys([*shown, against]) if name in result.rows}
    tests = compare(values, against) if against in values else {}
    lines = []
    for name in shown:
        standing = result.rows[name]
        cells = [Cell(name, name=True)]
        for metric in result.names:
            seeds = standing.values(metric)
            cells.append(Cell(f"{seeds.mean():.4f}" + (f" ± {spread(seeds):.4f}" if len(seeds) > 1 else "")))
        changes = " / ".join(f"{c.relative:+.1%}, {p_value(c.p)}" for c in tests.get(name, {}).values())
        lines.append((*cells, Cell(str(len(standing.runs))), Cell(changes)))
    header = ("row", *(metric.upper() for metric in result.names), "seeds", f"against {against}")
    return markdown_table(Block("table", header=header, rows=tuple(lines)))


def summary(
    boards: Sequence[StoredBoard], rows: Sequence[str], against: Sequence[str], command: str, other: str = ""
) -> Summary:
    """All datasets of these boards together; of runs under cold start or another split those of `other` alone.

    Raises
    ------
    UserError
        If there is nothing to report.
    """
    wanted = [*rows, *against] if rows else ()
    results = [of_stored(board, wanted) for board in boards if board.condition.other == other]
    return Summary([result for result in results if result.standings], against, command)


@dataclass(frozen=True)
class Selection:
    """What a command asks for: stored runs, rows of them, and what they are compared with."""

    paths: list[Path]
    rows: list[str]
    against: list[str]
    metric: str
    share: float
    other: str

    @classmethod
    def of(cls, options: argparse.Namespace, root: Path) -> Selection:
        """From a command whose paths start at `root`; they may be patterns, as in ``runs/*.runs.zip``.

        Raises
        ------
        UserError
            If a path has no stored runs.
        """
        paths: list[Path] = []
        rows: list[str] = []
        empty: list[str] = []
        for place, word in enumerate(options.what):
            there = sorted(map(Path, glob(str(root / word))))
            found = [path for path in there if is_stored(path)]
            paths += found
            if not found and (there or place == 0 or word.endswith(ENDING)):
                empty.append(str(root / word))
            elif not found:
                rows.append(word)
        if not paths or any(name.endswith(ENDING) for name in empty):
            raise UserError(f"{empty[0]} has no finished run; give the folder of a leaderboard, or a file *{ENDING}")
        for name in empty:
            print(f"{name} has no finished run and is left out", file=sys.stderr)
        return cls(paths, rows, options.against, options.metric.lower(), options.share, options.other)

    @cached_property
    def boards(self) -> list[StoredBoard]:
        """What lies at the paths, read once."""
        return read_boards(self.paths)

    def table(self) -> str:
        """The Markdown table: of one dataset its metrics, of several one metric; what stands against several rows, below.

        Raises
        ------
        UserError
            If there is nothing to show.
        """
        if len({board.dataset for board in self.boards}) == 1:
            return table(self.boards, self.rows, self.against[0] if self.against else AGAINST, self.share, self.other)
        found = self.summary("")
        metric = self.metric or found.metrics[0]
        if metric not in found.metrics:
            raise UserError(f"no runs have the metric {metric}; take one of {', '.join(found.metrics).upper()}")
        figures = found.figures(metric)
        return "\n\n".join(map(markdown_table, cut(figures, "mean rank") if len(found.against) > 1 else [figures]))

    def summary(self, command: str) -> Summary:
        """The summary of all datasets."""
        return summary(self.boards, self.rows, self.against, command, self.other)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a `Selection`."""
    parser.add_argument("what", nargs="+", metavar="FOLDER_OR_ROW", help="folders of leaderboards, or files *" + ENDING
                        + ", then the rows to show (default: all)")  # fmt: skip
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="ROW",
        help=f"rows to compare with (default: {AGAINST} if it is there)",
    )
    parser.add_argument("--metric", default="", help="of several datasets (default: the one that chose on validation)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of one dataset: runs that learned from this share of the users"
    )
    parser.add_argument("--other", default="", help='other runs, as in "cold_items 0.1 random"')


def together(paths: Sequence[Path]) -> list[StoredRun]:
    """The runs of several folders and files of one dataset; of a run that two of them have, that of the later one.

    Raises
    ------
    UserError
        As `read_runs`.
    """
    return list({(one.run.row, one.run.key): one for path in paths for one in read_runs(path)}.values())


def main(arguments: list[str]) -> int:
    """Print a table, or write the summary or packed runs."""
    parser = argparse.ArgumentParser(
        prog="python -m recbole_unisrec.leaderboard.tables",
        description="Tables from stored runs. One dataset: its metrics. Several: rows against datasets, or with --out the "
        "whole summary as HTML, Markdown, JSON and plots.",
    )
    add_options(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write summary.html, .md, .json and plots into it")
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="FOLDER",
        help=f"put all runs of each folder into FOLDER/NAME{ENDING}, print no table; folders and files of one name go together",
    )
    options = parser.parse_args(arguments)
    chosen = Selection.of(options, Path())
    if options.pack:
        by_name: dict[str, list[Path]] = {}
        for path in chosen.paths:
            by_name.setdefault(path.name.removesuffix(ENDING), []).append(path)
        for name, paths in by_name.items():
            target = options.pack / f"{name}{ENDING}"
            write_archive(together(paths), target)
            print(f"{target}: {target.stat().st_size / 1000:,.0f} kB")
    elif options.out:
        command = "python -m recbole_unisrec.leaderboard.tables " + shlex.join(arguments)
        print(f"summary: {chosen.summary(command).write(options.out)} (and summary.md beside it)")
    else:
        print(chosen.table())
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
