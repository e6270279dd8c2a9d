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

HELP = f"""\
tuning:
  A row that is tuned is run with the first seed at {len(rows.RATES)} learning rates, every row that trains at as many: {rows.rates()}.
  What is best on validation is run with the other seeds; the test part has no say.

settings:
  Settings for all rows are given as --name=value, for example --precision=bf16 --cold_items=0.1; a row whose model does
  not know one goes without it, and one line says so. A setting that a row would pass over (a learning rate where it is
  tuned) is refused. --cold_items and --cold_by=time hold items out of training, --train_users=0.1 learns from a
  tenth of the users (see docs/compare.md).

runs:
  A finished run is a JSON file in OUT/runs and is not run again. Its name is a digest of data, texts, pre-trained weights
  and settings, so what was made with others is left alone. Several processes may work in one OUT at the same time."""
NAMED = re.compile(r"([\w.+-]+)=(.+)")


def parser() -> argparse.ArgumentParser:
    """Options of ``--leaderboard``."""
    table = "\n".join(f"  {name:34} {row.about}" for name, row in rows.ROWS.items())
    found = argparse.ArgumentParser(
        prog="run_unisrec.py --leaderboard",
        description="Train several models with several seeds on one dataset and report them side by side.",
        epilog=f"rows:\n{table}\n\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--leaderboard", action="store_true", help=argparse.SUPPRESS)
    found.add_argument(
        "--dataset",
        nargs="+",
        default=["ml-100k"],
        metavar="NAME",
        help="folder names under dataset/ (default: ml-100k); several have a summary beside their reports",
    )
    found.add_argument("--models", "--model", nargs="+", metavar="ROW", help="rows to run (see below)")
    found.add_argument("--seeds", type=int, default=5, help="seeds for each row (default: 5)")
    found.add_argument(
        "--no-tuning", nargs="*", metavar="ROW", help="take the settings of these rows (of all) as they are"
    )
    found.add_argument(
        "--pretrained",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help=f"checkpoints of the pre-trained rows; one without a name is {rows.CHECKPOINT}, a row takes another as ROW@NAME",
    )
    found.add_argument(
        "--report-only",
        action="store_true",
        help="train nothing; report the rows of --models (default: all) that are finished, also those that miss seeds",
    )
    found.add_argument(
        "--against", nargs="+", default=[], metavar="ROW", help="rows to compare with (default: SASRec, or see --help)"
    )
    found.add_argument(
        "--resume",
        action="store_true",
        help="go on with runs that were cut off from their last epoch; else they start anew",
    )
    found.add_argument(
        "--out",
        type=Path,
        help="folder of runs and report (default: leaderboard/DATASET); of several datasets the folder of theirs",
    )
    found.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return found


def command(arguments: list[str], settings: dict[str, str]) -> int:
    """Run a leaderboard, or one for each of several datasets and their summary; `settings` hold for all rows."""
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        raise UserError(f"unknown option {unknown[0]!r}; settings are written --name=value, see --leaderboard --help")
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
