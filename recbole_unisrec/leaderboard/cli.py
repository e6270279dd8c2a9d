"""``run_unisrec.py --leaderboard``."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from dataset_tools.common import UserError
from recbole_unisrec.leaderboard import live, report, rows, runner
from recbole_unisrec.leaderboard.runs import Standing
from recbole_unisrec.leaderboard.stored import is_stored, read_boards
from recbole_unisrec.leaderboard.summary import Summary
from recbole_unisrec.leaderboard.versus import SetResult, of_board, of_stored
from recbole_unisrec.record import say
from recbole_unisrec.settings import parse_value

NAMED = re.compile(r"([\w.+-]+)=(.+)")


def leaderboard_command(options: argparse.Namespace, arguments: list[str], settings: dict[str, str]) -> int:
    """Run a leaderboard, or one for each of several datasets and their summary.

    Parameters
    ----------
    options
        Of `arguments.leaderboard_parser`.
    arguments
        What they were read from, for the report.
    settings
        Hold for all rows.
    """
    if twice := [name for name in options.dataset if options.dataset.count(name) > 1]:
        raise UserError(f"--dataset has {twice[0]} twice; give each once")
    overrides = {name: parse_value(value) for name, value in settings.items()}
    overrides.setdefault("show_progress", False)
    chosen = rows.rows_of(options.models or ([] if options.report_only else rows.DEFAULT))
    rows.rows_of(options.against)  # unknown ones are named before the first run
    untuned = set(rows.rows_of(options.no_tuning or [])) if options.no_tuning != [] else {*chosen, *rows.ROWS}
    checkpoints = named_checkpoints(options.pretrained)
    several = len(options.dataset) > 1
    root = options.out or Path("leaderboard")
    said = "python run_unisrec.py " + shlex.join([*arguments, *(f"--{k}={v}" for k, v in settings.items())])
    jobs = []
    for dataset in options.dataset:  # mistakes on any of them are found before the first run
        folder = root / dataset if several or not options.out else root
        board = runner.Leaderboard(
            folder, dataset, chosen, options.seeds, overrides, [name for name in chosen if name not in untuned], checkpoints,
            options.resume,
        )  # fmt: skip
        board.refuse_ignored()
        jobs.append(Job(board, untuned, said, next(iter(options.against), "")))
        if not options.report_only:
            for line in board.check():
                say(f"{dataset}: {line}" if several else line)
    results = [result for job in jobs if (result := job.report() if options.report_only else job.fill()) is not None]
    if not results:
        raise UserError(
            f"no row is finished in {', '.join(str(job.board.folder) for job in jobs)} with these settings; give the settings "
            "of the runs, or drop --report-only"
        )
    if several:
        target = Summary([*results, *other_shares(results, jobs)], options.against, said).write(root)
        print(f"summary: {target} (and summary.md and summary.json beside it)")
    return 0


@dataclass(frozen=True)
class Job:
    """The leaderboard of one dataset, and how it is to be reported.

    Attributes
    ----------
    untuned
        Rows whose property files are taken as they are.
    said
        The command.
    against
        The row to test against; empty: SASRec's.
    """

    board: runner.Leaderboard
    untuned: set[str]
    said: str
    against: str

    def report(self) -> SetResult | None:
        """Report what is finished; None if nothing is."""
        standings = report.standings_of(self.board, self.board.rows or rows.ROWS, dict.fromkeys(self.untuned, False))
        if not standings:
            say(f"{self.board.dataset}: no row is finished in {self.board.folder} with these settings")
            return None
        print(live.text_table(self.board, standings))
        return self._write(standings)

    def fill(self) -> SetResult:
        """Run what is missing, and report."""
        board = self.board
        shown = {**board.rows, **{name: row for name, row in rows.ROWS.items() if name not in board.rows}}
        tuned = {name: name in board.tuned for name in board.rows}

        def standings_now() -> list[Standing]:
            return report.standings_of(board, shown, tuned)

        with live.watch(board, standings_now) as watch:
            for standing in board.fill(watch):
                if watch.news or standing.name == list(board.rows)[-1]:
                    watch.complete()
                    report.Report(board, standings_now(), self.said, self.against).write()
                    watch.news = False
        return self._write(standings_now())

    def _write(self, standings: list[Standing]) -> SetResult:
        target = report.Report(self.board, standings, self.said, self.against).write()
        print(f"report: {target} (and report.md beside it)")
        return of_board(self.board, standings, page=f"{self.board.dataset}/{target.name}")


def other_shares(results: list[SetResult], jobs: list[Job]) -> list[SetResult]:
    """What lies in the same folders of runs that learned from other shares of the users, for the plot over shares."""
    if any(result.other for result in results):
        return []
    seen = {(result.dataset, result.share) for result in results}
    names = {name for result in results for name in result.rows}
    boards = read_boards([job.board.folder for job in jobs if is_stored(job.board.folder)])
    found = [
        of_stored(board, names)
        for board in boards
        if not board.condition.other and (board.dataset, board.condition.share) not in seen
    ]
    return [result for result in found if result.standings and result.names == results[0].names]


def named_checkpoints(given: list[str]) -> dict[str, str]:
    """``NAME=FILE`` as a mapping; a FILE alone is the checkpoint of rows that name none.

    Raises
    ------
    UserError
        If a name is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        match = NAMED.fullmatch(text)
        name, file = match.groups() if match else (rows.CHECKPOINT, text)
        if name in found:
            raise UserError(
                f"--pretrained has {name} twice ({found[name]} and {file}); give each checkpoint a name of its own"
            )
        found[name] = file
    return found
