"""How one process of serving works: its threads, and what it has to say on stderr."""

from __future__ import annotations

import contextlib
import logging

from dataset_tools.common import UserError


def start_log() -> None:
    """Show what serving has to say, on stderr."""
    logger = logging.getLogger("recbole_unisrec.serving")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO)


def set_threads(n: int) -> None:
    """Threads of torch and faiss: one history is too small a piece of work for several to gain from."""
    import torch

    torch.set_num_threads(n)
    with contextlib.suppress(UserError):
        from recbole_unisrec.serving.index import import_faiss

        import_faiss().omp_set_num_threads(n)
