"""Tables of rows from the stored runs of a leaderboard, as Markdown: no figure of the docs is typed by hand."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.common import UserError, run_cli
from recbole_unisrec.evaluation import read_ranks
from recbole_unisrec.leaderboard.stats import compare, per_user

METRICS = ("hit@10", "ndcg@10", "hit@50", "ndcg@50")


def runs_of(folder: Path, row: str) -> list[dict[str, Any]]:
    """The finished runs of a row, by seed; of a seed with several grid points the best on validation."""
    best: dict[int, dict[str, Any]] = {}
    for file in sorted((folder / "runs" / row).glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        run["ranks"] = file.with_suffix(".npz")
        if run["seed"] not in best or run["valid_score"] > best[run["seed"]]["valid_score"]:
            best[run["seed"]] = run
    return [best[seed] for seed in sorted(best)]


def table(folder: Path, rows: list[str], against: str) -> str:
    """The rows that have runs, best point of the grid by validation.

    Mean and standard deviation over seeds; the change against a row with the p of a paired t-test over users (each user's
    mean over seeds), two-sided, Holm-corrected over the rows and metrics shown.

    Raises
    ------
    UserError
        If none of the rows has a run.
    """
    found = {row: runs for row in rows if (runs := runs_of(folder, row))}
    if not found:
        raise UserError(
            f"{folder} has no finished run of {', '.join(rows)}; its rows are the folders in {folder / 'runs'}"
        )
    values: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for row, runs in found.items():
        ranks = np.stack([read_ranks(run["ranks"])[1] for run in runs])
        for metric in METRICS:
            name, k = metric.split("@")
            values[row][metric] = per_user(ranks, name, int(k))
    tests = compare(dict(values), against) if against in found else {}
    lines = ["| row | " + " | ".join(m.upper() for m in METRICS) + f" | seeds | against {against} |"]
    lines.append("|---|" + "---|" * len(METRICS) + "---:|---|")
    for row, runs in found.items():
        cells = []
        for metric in METRICS:
            seeds = np.array([run["test"][metric] for run in runs])
            cells.append(f"{seeds.mean():.4f}" + (f" ± {seeds.std(ddof=1):.4f}" if len(seeds) > 1 else ""))
        changes = []
        for metric in METRICS if row in tests else ():
            found_p = tests[row][metric].p
            p = "p < .001" if found_p < 0.001 else f"p = {found_p:.3f}".replace("0.", ".", 1)
            changes.append(f"{tests[row][metric].relative:+.1%}, {p}")
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {len(runs)} | " + " / ".join(changes) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m recbole_unisrec.leaderboard.tables", description=table.__doc__)
    parser.add_argument("folder", type=Path, help="of a leaderboard, for example leaderboard/Scientific")
    parser.add_argument("rows", nargs="+", metavar="ROW")
    parser.add_argument(
        "--against", default="text-kNN", metavar="ROW", help="row to compare with (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    print(table(options.folder, options.rows, options.against))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
