"""Checkpoints that survive: whole or absent, checked when read, and free of code.

A run, of pre-training or of fine-tuning, has one folder, and in it a folder for each checkpoint:

| file | content |
|---|---|
| ``step-00001200/model.safetensors`` | weights, under the authors' names |
| ``step-00001200/config.json`` | settings, domains, text encoder, epoch: what is needed to use the weights |
| ``step-00001200/training.safetensors`` | state of the optimizer |
| ``step-00001200/training.json`` | epoch, step in the epoch, seed, history; size and CRC-32 of the files above |

A checkpoint is written under another name and renamed, so a killed run leaves whole checkpoints only. Damage that comes
later (a full or broken disk) is seen by size and checksum.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dataset_tools.left_over import TEMPORARY, sweep
from recbole_unisrec.errors import UserError

MODEL, CONFIG, OPTIMIZER, PROGRESS = "model.safetensors", "config.json", "training.safetensors", "training.json"
BEST = "best"
FORMAT = 1
CHUNK = 1 << 22


@dataclass(frozen=True)
class TrainingState:
    """What a run needs, beside the weights, to go on as if it had not stopped.

    Attributes
    ----------
    optimizer
        Tensors by ``<parameter>/<name of the state>``, e.g. ``LayerNorm.weight/exp_avg``.
    progress
        JSON values: ``epoch`` and ``step`` to go on with, sums of the losses so far, validation history, ...
    """

    optimizer: dict[str, Tensor]
    progress: dict[str, Any]


def _checksum(path: Path) -> dict[str, int]:
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return {"bytes": path.stat().st_size, "crc32": crc}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place once complete."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, f".{target.name.rstrip('0123456789')}")  # of the checkpoints step-N too, each of another N
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=TEMPORARY, dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write to {target.parent}: {error.strerror}; set checkpoint_dir") from error
    try:
        yield fresh
        for file in fresh.iterdir():
            _sync(file)
        fresh.chmod(0o755)
        if target.exists():  # a folder cannot be replaced in one step
            old = target.with_name(f".{target.name}.old.tmp")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(fresh, target)
        _sync(target.parent)
    except OSError as error:
        raise UserError(
            f"could not write the checkpoint {target}: {error.strerror or error}; free some space"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(target.with_name(f".{target.name}.old.tmp"), ignore_errors=True)


def _link(path: Path, target: Path) -> None:
    """Another name for a file that is replaced but never written to, or a copy where there can be none."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _plain_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_checkpoint(
    folder: Path, weights: dict[str, Tensor], meta: dict[str, Any], training: TrainingState | None = None,
    beside: dict[str, Path] | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint folder, whole or not at all.

    Parameters
    ----------
    folder
        See the module; replaced if it exists.
    weights
        Parameters by name.
    meta
        JSON values, among them ``encoder`` (text encoder of the features) and ``config``.
    training
        None leaves the training state out (weights to use, not to go on with).
    beside
        Files to keep in the folder too, by their names there.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    with _new_folder(Path(folder)) as fresh:
        try:
            save_file(_plain_tensors(weights), fresh / MODEL)
            (fresh / CONFIG).write_text(json.dumps({"format": FORMAT, **meta}, indent=1) + "\n", encoding="utf-8")
            for name, path in (beside or {}).items():
                _link(path, fresh / name)
            if training is not None:
                save_file(_plain_tensors(training.optimizer), fresh / OPTIMIZER)
                files = {name: _checksum(fresh / name) for name in (MODEL, CONFIG, OPTIMIZER)}
                progress = {"progress": training.progress, "files": files}
                (fresh / PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")
        except SafetensorError as error:
            raise UserError(f"could not write the checkpoint {folder}: {error}; free some space") from error
    return Path(folder)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises `UserError` if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; use another checkpoint") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold a JSON object; use another checkpoint")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, by name; raises `UserError` if it is missing or torn."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a checkpoint folder, a .safetensors file or a .pth file")
    try:
        # copies: what load_file gives may lie in the file itself, which another run may replace
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"cannot load {path}: {error}; the file is torn, use another checkpoint") from error


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], TrainingState]:
    """Read a checkpoint with its training state; sizes and checksums are verified.

    Raises
    ------
    UserError
        If a file is missing, torn or altered.
    """
    folder = Path(folder)
    found = read_json(folder / PROGRESS)
    if not isinstance(found.get("files"), dict) or not isinstance(found.get("progress"), dict):
        raise UserError(f"{folder / PROGRESS} is incomplete; use another checkpoint")
    for name, expected in found["files"].items():
        path = folder / name
        if not path.is_file() or _checksum(path) != expected:
            raise UserError(f"{path} is not as it was written (torn or altered); use another checkpoint")
    weights, optimizer = read_tensors(folder / MODEL), read_tensors(folder / OPTIMIZER)
    return weights, read_json(folder / CONFIG), TrainingState(optimizer, found["progress"])


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, the newest first; names of the steps tell the age."""
    found = [path for path in Path(run).glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def latest_checkpoint(run: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any], TrainingState, list[str]] | None:
    """The newest sound checkpoint of a run, with a sentence for each torn one that was passed over; None without any.

    Raises
    ------
    UserError
        If there are checkpoints, and all of them are torn.
    """
    passed: list[str] = []
    for folder in list_checkpoints(run):
        try:
            return folder, *read_checkpoint(folder), passed
        except UserError as error:
            passed.append(str(error))
    if passed:
        raise UserError(f"no checkpoint in {run} can be used: {passed[0]}")
    return None


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of a run, and what killed runs left half-written."""
    for folder in list_checkpoints(run)[max(1, keep) :]:
        shutil.rmtree(folder, ignore_errors=True)


def clean(run: Path) -> None:
    """Remove what a killed run left half-written; call it before training, when no other process writes."""
    for folder in Path(run).glob(".*.tmp"):
        old = folder.name.endswith(".old.tmp")
        target = folder.with_name(folder.name[1:].removesuffix(".old.tmp"))
        if folder.is_file():
            folder.unlink()
        elif old and not target.exists():
            os.replace(folder, target)  # killed between the two renames
        else:
            shutil.rmtree(folder, ignore_errors=True)
