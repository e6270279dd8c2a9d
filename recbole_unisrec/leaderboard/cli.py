"""``run_unisrec.py --leaderboard``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from dataset_tools.common import UserError
from recbole_unisrec.leaderboard import report, rows, runner
from recbole_unisrec.settings import parse_value


def parser() -> argparse.ArgumentParser:
    """Options of ``--leaderboard``."""
    table = "\n".join(f"  {name:30} {row.about}" for name, row in rows.ROWS.items())
    found = argparse.ArgumentParser(
        prog="run_unisrec.py --leaderboard",
        description="Train several models with several seeds on one dataset and report them side by side.",
        epilog=f"Rows:\n{table}\n\nSettings for all rows are given as --name=value. A finished run is not run again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--leaderboard", action="store_true", help=argparse.SUPPRESS)
    found.add_argument("--dataset", default="ml-100k", help="folder name under dataset/ (default: ml-100k)")
    found.add_argument("--models", "--model", nargs="+", default=rows.DEFAULT, metavar="ROW", help="rows (see below)")
    found.add_argument("--seeds", type=int, default=5, help="seeds for each row (default: 5)")
    found.add_argument(
        "--no-tuning", nargs="*", metavar="ROW", help="take the settings of these rows (of all) as they are"
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
    chosen = rows.rows_of(options.models)
    overrides.setdefault("show_progress", False)
    fixed = list(chosen) if options.no_tuning == [] else options.no_tuning or []
    tuned = [name for name in chosen if name not in rows.rows_of(fixed)]
    board = runner.Leaderboard(folder, options.dataset, chosen, options.seeds, overrides, tuned)
    standings: list[runner.Standing] = []
    said = "python run_unisrec.py " + shlex.join([*arguments, *(f"--{k}={v}" for k, v in settings.items())])
    for standing in board.fill():
        standings.append(standing)
        print(f"\n{report.live_table(standings)}\n", flush=True)
        target = report.write(board, standings, said)
    print(f"report: {target} (and report.md beside it)")
    return 0
