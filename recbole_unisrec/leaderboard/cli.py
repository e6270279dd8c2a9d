"""``run_unisrec.py --leaderboard``."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from dataset_tools.common import UserError
from recbole_unisrec.leaderboard import live, report, rows, runner
from recbole_unisrec.leaderboard.runs import Standing
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
    found.add_argument("--dataset", default="ml-100k", help="folder name under dataset/ (default: ml-100k)")
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
    found.add_argument("--out", type=Path, help="folder of runs and report (default: leaderboard/DATASET)")
    found.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return found


def command(arguments: list[str], settings: dict[str, str]) -> int:
    """Run a leaderboard; `settings` hold for all rows."""
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        raise UserError(f"unknown option {unknown[0]!r}; settings are written --name=value, see --leaderboard --help")
    overrides = {name: parse_value(value) for name, value in settings.items()}
    folder = options.out or Path("leaderboard") / options.dataset
    chosen = rows.rows_of(options.models or ([] if options.report_only else rows.DEFAULT))
    overrides.setdefault("show_progress", False)
    untuned = set(rows.rows_of(options.no_tuning or [])) if options.no_tuning != [] else {*chosen, *rows.ROWS}
    board = runner.Leaderboard(
        folder, options.dataset, chosen, options.seeds, overrides, [name for name in chosen if name not in untuned],
        named_checkpoints(options.pretrained),
    )  # fmt: skip
    said = "python run_unisrec.py " + shlex.join([*arguments, *(f"--{k}={v}" for k, v in settings.items())])
    board.refuse_ignored()
    if options.report_only:
        standings = report.standings_of(board, chosen or rows.ROWS, dict.fromkeys(untuned, False))
        if not standings:
            raise UserError(
                f"no row is finished in {folder} with these settings; give the settings of the runs, or drop --report-only"
            )
        print(live.text_table(board, standings))
        target = report.Report(board, standings, said).write()
    else:
        for line in board.check():
            say(line)
        shown = {**chosen, **{name: row for name, row in rows.ROWS.items() if name not in chosen}}
        tuned = {name: name in board.tuned for name in chosen}

        def standings_now() -> list[Standing]:
            return report.standings_of(board, shown, tuned)

        with live.watch(board, standings_now) as watch:
            for standing in board.fill(watch):
                if watch.news or standing.name == list(chosen)[-1]:
                    watch.complete()
                    target = report.Report(board, standings_now(), said).write()
                    watch.news = False
    print(f"report: {target} (and report.md beside it)")
    return 0


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
