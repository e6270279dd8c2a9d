"""Say what is being done, how far it is, and how long it will take, in words of a shop."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_EPOCH = re.compile(r"epoch\s+(\d+)\s.*\bvalid \S+ ([\d.]+)( \*)?\s+([\d.]+) s")


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(8), duration(90), duration(5400)
    ('8 s', '2 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class Progress:
    """Lines on the terminal: a step after the other, with the time it took.

    Parameters
    ----------
    n_steps
        How many there are.
    quiet
        Say nothing.
    """

    def __init__(self, n_steps: int, quiet: bool = False) -> None:
        self.n_steps, self.quiet = n_steps, quiet
        self.number = 0

    def say(self, line: str) -> None:
        """Print a line at once, also into a pipe."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One step of the work."""
        self.number += 1
        self.say(f"[{self.number}/{self.n_steps}] {what} ...")
        started = time.perf_counter()
        yield
        self.say(f"      done in {duration(time.perf_counter() - started)}")

    def skip(self, what: str) -> None:
        """A step that was done before."""
        self.number += 1
        self.say(f"[{self.number}/{self.n_steps}] {what}: done before, kept")


class Rounds:
    """Hear of training round by round, and say how much longer it takes at least.

    Parameters
    ----------
    progress
        Where to say it.
    most
        Rounds that there can be.
    patience
        Rounds without an improvement after which training ends.
    """

    def __init__(self, progress: Progress, most: int, patience: int) -> None:
        self.progress, self.most, self.patience = progress, most, patience
        self._seconds: list[float] = []
        self._best = -1

    def __call__(self, line: str) -> None:
        """Take a line of `quick_start.train`."""
        found = _EPOCH.search(line)
        if not found:
            if line.startswith("resumed"):
                self.progress.say("      going on where learning was cut off")
            return
        number, better = int(found[1]), bool(found[3])
        self._seconds.append(float(found[4]))
        if better:
            self._best = number
        one = sum(self._seconds[-5:]) / len(self._seconds[-5:])
        least = one * max(0, min(self.patience - (number - self._best) + 1, self.most - number - 1))
        most = one * (self.most - number - 1)
        self.progress.say(
            f"      round {number + 1}: quality {float(found[2]):.4f}{' (best so far)' if better else ''}, "
            + (
                f"{duration(least)} left{', more if it improves' if most > least else ''}"
                if most > 0
                else "the last one"
            )
        )


class Again:
    """Hear of the last training, which has no measure and a known number of rounds.

    Parameters
    ----------
    progress
        Where to say it.
    rounds
        How many there are.
    """

    def __init__(self, progress: Progress, rounds: int) -> None:
        self.progress, self.rounds = progress, rounds
        self._seconds: list[float] = []

    def __call__(self, line: str) -> None:
        """Take a line of `quick_start.train`."""
        if not (found := re.match(r"epoch\s+(\d+)\s", line)):
            return
        number = int(found[1]) + 1
        took = re.search(r"([\d.]+) s\b", line)
        self._seconds.append(float(took[1]) if took else 0.0)
        left = sum(self._seconds) / len(self._seconds) * (self.rounds - number)
        self.progress.say(f"      round {number} of {self.rounds}" + (f", {duration(left)} left" if left else ""))
