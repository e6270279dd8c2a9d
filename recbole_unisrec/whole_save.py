"""Checkpoints of torch that are whole or what they were before."""

from __future__ import annotations

import errno
from typing import Any

import torch

from dataset_tools.common import atomic_path

_torch_save = torch.save


def whole_torch_save(content: Any, file: Any, **options: Any) -> None:
    """`torch.save`, in one step.

    Raises
    ------
    UserError
        If the file cannot be written; torch tells a full disk by a ``RuntimeError`` of its zip writer.
    """
    with atomic_path(file) as temporary:
        try:
            _torch_save(content, temporary, **options)
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, "the disk is full, or the file cannot be written") from error
