"""Options of ``run_unisrec.py --leaderboard``, apart from the code that serves them, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset_tools.arguments import add_usual
from recbole_unisrec.leaderboard import rows

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


def leaderboard_parser() -> argparse.ArgumentParser:
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
    add_usual(found)
    return found
