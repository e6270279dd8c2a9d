"""The processes that share the encoding of one dataset."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any


class Ranks:
    """The processes that share the work: one, or those of torchrun."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._group: Any = None
        self._opened = False

    def __enter__(self) -> Ranks:
        if self.size > 1:
            import torch.distributed as dist

            # the ranks meet twice only, and the slowest may be hours behind
            timeout = timedelta(days=7)
            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=timeout)
                self._opened = True
            self._group = dist.new_group(backend="gloo", timeout=timeout)
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            import torch.distributed as dist

            dist.destroy_process_group()

    def share(self, value: Any) -> Any:
        """What rank 0 holds, on every rank; also a point where all wait for each other."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        dist.barrier(group=self._group)
        return box[0]

    def meet(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(group=self._group)
