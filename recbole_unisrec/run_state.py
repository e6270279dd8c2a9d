"""What a run of any stage needs to go on as if it had not stopped: equal settings, its lock, and its state as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.record import plain

LOCK = ".lock"
# what may change between the parts of a run: how long it lasts, where things lie, what is shown, and on which machine it
# runs (processes and parts of a batch change nothing but rounding). Everything else determines the result.
MAY_DIFFER = frozenset({
    "epochs", "stopping_step", "save_step", "save_batches", "keep_checkpoints",
    "data_path", "checkpoint_dir", "log_dir", "show_progress", "log_wandb", "wandb_project", "state", "loss_decimal_place",
    "device", "use_gpu", "gpu_id", "worker", "backend", "features_on", "rows_at_a_time", "eval_batch_size",
    "single_spec", "local_rank", "nproc", "world_size", "offset", "ip", "port",
})  # fmt: skip


# --- settings


def determining(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that determine its result, in types that JSON knows."""
    return {name: value for name, value in plain(config).items() if name not in MAY_DIFFER}


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first difference of two sets of settings, "learning_rate 0.001, now it is 0.01"; None if there is none.

    A setting that one side does not have is off there, as are ``~`` and ``False``.
    """
    before, now = determining(before), determining(now)
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name), now.get(name)
        if old != new and not (_off(old) and _off(new)):
            return f"{name} {old}, now it is {new}"
    return None


def _off(value: Any) -> bool:
    return value is None or value is False


# --- lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder; the lock ends with the process, however it ends.

    Raises
    ------
    UserError
        If another process has it, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another process is training in {folder}; wait until it has ended, or set another checkpoint_dir"
        ) from error
    except NotImplementedError:
        pass  # a file system without locks: nothing tells two processes apart there
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; set checkpoint_dir") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process is training in a folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return False


# --- state


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by ``<parameter>/<name of the state>``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def set_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = dict(model.named_parameters())
    fused = optimizer.param_groups[0].get("fused")
    for full, tensor in tensors.items():
        name, _, key = full.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][key] = tensor.to(parameter.device) if key != "step" or fused else tensor


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators, which dropout and the noise of the gate draw from."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `random_tensors` gave."""
    torch.set_rng_state(tensors["cpu"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
