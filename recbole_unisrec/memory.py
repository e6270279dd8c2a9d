"""How the process uses memory: settings that save page faults, too little of it, and the peak that benchmarks report."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recbole_unisrec.errors import UserError

# parameters of glibc's mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step rather than hand it back to the system and fault it in again.

    A training step frees and asks for the same large tensors every time. Costs nothing but that the process stays at
    its peak. Does nothing where the C library is not glibc.

    Returns
    -------
    bool
        Whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def shared_memory_told() -> Iterator[None]:
    """Within it, a loader's processes (``worker``) that find too little shared memory are one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in ("shared memory", "bus error")):
            raise
        raise UserError(
            "the processes that load batches found too little shared memory in /dev/shm; set worker=0, or give the "
            "container more (docker run --shm-size=1g)"
        ) from error


def peak_memory(gpu: bool = False) -> int:
    """Largest resident set of the process so far, or with `gpu` the most that torch had on its GPU, in bytes."""
    if gpu:
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
