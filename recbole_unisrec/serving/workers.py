"""Several processes that answer on one socket; who dies is replaced."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

LOOK = 0.2  # seconds between two looks at the processes
SOON = 5.0  # seconds; a process that dies sooner is not replaced at once
log = logging.getLogger("recbole_unisrec.serving")


def run_workers(target: Callable[..., None], arguments: Sequence[Any], n: int, drain: int) -> None:
    """Run `target` in n processes until SIGTERM or SIGINT, which they get too; then wait for their ends.

    Parameters
    ----------
    target, arguments
        A function of a module, and what it takes; both are pickled.
    drain
        Seconds that a process may go on after the signal, before it is killed.
    """
    context = multiprocessing.get_context("spawn")  # forked ones would share locks of torch and polars
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    def start() -> tuple[BaseProcess, float]:
        process = context.Process(target=target, args=tuple(arguments))
        process.start()
        return process, time.monotonic()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    working = [start() for _ in range(n)]
    try:
        while not stopping:
            time.sleep(LOOK)
            for i, (process, started) in enumerate(working):
                if process.is_alive() or stopping:
                    continue
                log.error("a worker ended with status %s; another takes its place", process.exitcode)
                if time.monotonic() - started < SOON:
                    time.sleep(1)  # it may do so again and again
                working[i] = start()
    finally:
        for process, _ in working:
            if process.is_alive():
                process.terminate()
        until = time.monotonic() + drain + 5
        for process, _ in working:
            process.join(max(0.1, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for number, handler in before.items():
            signal.signal(number, handler)
