"""Processes that train one model together, started by ``torchrun``: gradients summed, negatives shared.

In pre-training each process computes the loss of its own rows against the keys of all processes, so that the sum over processes is the
loss of one process with the whole batch; so are the gradients, because the gather hands gradients back to the process
that made a key.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from recbole_unisrec.errors import UserError
from recbole_unisrec.watch import Watch

_STARTS = itertools.count()  # how often this process has joined the others
TIMEOUT = datetime.timedelta(minutes=30)  # a rank may wait while rank 0 writes


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


def current() -> World:
    """This process among those that `start` joined."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


def local_rank() -> int | None:
    """Number of the process on its machine under ``torchrun``, else None."""
    return int(os.environ["LOCAL_RANK"]) if "WORLD_SIZE" in os.environ and "LOCAL_RANK" in os.environ else None


def start(backend: str | None = None, prefix: str = "start") -> World:
    """Join the other processes, if ``torchrun`` started several.

    Parameters
    ----------
    backend
        ``nccl`` or ``gloo``; None takes nccl where a GPU is.
    prefix
        Of the keys of this group in the store, which keeps those of groups that were left.

    Raises
    ------
    UserError
        If the processes cannot reach one another, or the backend is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        chosen = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        try:
            store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
            store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
            dist.init_process_group(chosen, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"cannot start {size} processes with {chosen}: {str(error).splitlines()[0]}") from error
    return World(dist.get_rank(), dist.get_world_size())


@contextlib.contextmanager
def running(backend: str | None = None) -> Iterator[World]:
    """`start`, with a watch over the other processes, and `stop`.

    Raises
    ------
    UserError
        If another process died; says which.
    """
    prefix = f"start-{next(_STARTS)}"
    world = start(backend, prefix)
    if world.size == 1:
        yield world
        return
    watch = Watch(world.rank, world.size, prefix)
    try:
        yield world
    except RuntimeError as error:  # of a collective operation, if another process is gone
        sentence = watch.who_died()
        if sentence is None:
            raise
        raise UserError(sentence) from error
    else:
        barrier(world)  # nobody leaves while another still needs the store
        watch.stop()
        stop()


def stop() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        most = max(sizes)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad = grad_outputs[0].contiguous()
        dist.all_reduce(grad)  # every process has a part of the gradient of every key
        first = sum(ctx.sizes[: ctx.rank])
        return grad[first : first + ctx.sizes[ctx.rank]], None, None


def gather(x: Tensor, sizes: Sequence[int], world: World) -> Tensor:
    """Rows of all processes, in their order, with gradient.

    Parameters
    ----------
    x
        [b, d] rows of this process, b = ``sizes[world.rank]``.
    sizes
        Rows of each process.

    Returns
    -------
    Tensor
        [Σ sizes, d].
    """
    if world.size == 1:
        return x
    gathered = _Gather.apply(x, sizes, world.rank)
    assert isinstance(gathered, Tensor)
    return gathered


def sum_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Replace each gradient by the sum over processes, in one message; rows of sparse ones are gathered."""
    if world.size == 1:
        return
    chosen = []
    for p in parameters:
        if p.grad is not None and p.grad.is_sparse:
            p.grad = _sum_sparse(p.grad, world)
        elif p.requires_grad:
            chosen.append(p)
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in chosen])
    dist.all_reduce(flat)
    for p, part in zip(chosen, flat.split([p.numel() for p in chosen]), strict=True):
        p.grad = part.view_as(p)


def _sum_sparse(gradient: Tensor, world: World) -> Tensor:
    """Sum over processes of a sparse gradient [N, d]."""
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = [int(size) for size in sizes]
    together = gather(rows, counts, world), gather(values, counts, world)
    return torch.sparse_coo_tensor(together[0].unsqueeze(0), together[1], gradient.shape).coalesce()


def sum_over(values: Tensor, world: World) -> Tensor:
    """Sum of a tensor over processes."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def copy_from_first(tensors: Iterable[Tensor], world: World) -> None:
    """Give every process the first one's values."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def barrier(world: World) -> None:
    """Wait for the others."""
    if world.size > 1:
        dist.barrier()
