"""Fine-tuning by several processes that ``torchrun`` has started: users are split over them, weights stay equal.

Every process makes the same decisions from the same numbers, so each runs the whole of `quick_start.train`. The first
one prints and keeps its files; those of the others go with the processes.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from recbole.config import Config

from recbole_unisrec import distributed, quick_start
from recbole_unisrec.errors import UserError
from recbole_unisrec.record import say
from recbole_unisrec.registry import PACKED
from recbole_unisrec.setting_table import RunSettings


def rank_settings() -> dict[str, Any]:
    """Settings that ``torchrun`` calls for: each process its own GPU, progress from the first one only."""
    number = distributed.local_rank()
    if number is None:
        return {}
    settings: dict[str, Any] = {"gpu_id": str(number)}
    if not first():
        settings["show_progress"] = False
    return settings


def several() -> bool:
    """Whether ``torchrun`` has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this process prints."""
    return int(os.environ.get("RANK", "0")) == 0


def train(config: Config, verbose: bool = False, **options: Any) -> quick_start.Result:
    """`quick_start.train`, by all processes together where there are several.

    Raises
    ------
    UserError
        If the model does not train on our data path, or another process died.
    """
    if not several():
        return quick_start.train(config, verbose, **options)
    run = RunSettings.from_config(config)
    if run.model not in PACKED:
        raise UserError(
            f"{run.model} trains in one process; torchrun goes with {', '.join(PACKED)} and with pre-training"
        )
    if options.get("resume"):
        raise UserError("--resume goes with one process; start it without torchrun")
    with distributed.running(run.backend) as world, tempfile.TemporaryDirectory() as scratch:
        if world.first:
            say(f"{world.size} processes, each with its share of the users of a batch")
            return quick_start.train(config, verbose, **options)
        config["checkpoint_dir"] = scratch
        return quick_start.train(config, tell=lambda line: None, **options)
