"""Stages of a program that runs in a process of its own: seconds and peak of resident memory after each, as a table."""

from __future__ import annotations

import json
import subprocess
import sys
import time


class Stages:
    """Prints a line of JSON after each stage, for `show`."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def done(self, stage: str, seconds: float | None = None) -> None:
        """A stage has ended; it took the time since the last one, if its seconds are not given."""
        from recbole_unisrec.memory import peak_memory

        taken = time.perf_counter() - self.started if seconds is None else seconds
        print(json.dumps({"stage": stage, "s": taken, "peak": peak_memory()}), flush=True)
        self.started = time.perf_counter()


def show(arguments: list[str], *before: str) -> None:
    """Run this script again with further arguments and print a row for each of its stages, after the cells `before`."""
    command = [sys.executable, "-W", "ignore", *sys.argv, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                cells = [*before, row["stage"], f"{row['s']:.2f}", f"{row['peak'] / 2**20:,.0f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    if child.returncode:
        raise SystemExit(child.returncode)
