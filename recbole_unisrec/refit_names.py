"""How the checkpoint of a last fit on all the data is named after that of the run before it."""

from __future__ import annotations

from pathlib import Path

ENDING = "-refit"  # of the checkpoint's name, before .pth


def refitted(checkpoint: Path) -> Path:
    """The checkpoint of the last fit on all the data where there is one beside a checkpoint, else the checkpoint itself."""
    beside = checkpoint.with_name(f"{checkpoint.stem}{ENDING}.pth")
    return beside if checkpoint.suffix == ".pth" and beside.is_file() else checkpoint


def is_refit(checkpoint: Path) -> bool:
    """Whether a checkpoint is of a last fit on all the data."""
    return checkpoint.suffix == ".pth" and checkpoint.stem.endswith(ENDING)


def measured(checkpoint: Path) -> Path:
    """The checkpoint of the run before, whose figures there are."""
    return checkpoint.with_name(f"{checkpoint.stem.removesuffix(ENDING)}{checkpoint.suffix}")
