"""A moving average of the weights (``ema_decay``), which is evaluated and saved in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class WeightAverage:
    """Exponential moving average of the weights that learn; evaluated and saved in their place.

    Parameters
    ----------
    model
        What is trained.
    decay
        Share of the average that stays at each step, in (0, 1); smaller in the first steps.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.weights]
        self.decay, self._steps = decay, 0
        # on an accelerator steps are counted there, so that a graph can count them
        self.clock: Tensor | None = None
        if self.weights and self.weights[0].device.type != "cpu":
            self.count_on_device()

    def count_on_device(self) -> None:
        """Count steps in a tensor from now on."""
        self.clock = torch.tensor(float(self._steps), device=self.weights[0].device)

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self._steps if self.clock is None else int(self.clock)

    @steps.setter
    def steps(self, number: int) -> None:
        self._steps = number
        if self.clock is not None:
            self.clock.fill_(number)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        # the share that stays grows with the steps, else the random start would weigh for long
        if self.clock is None:
            self._steps += 1
            torch._foreach_lerp_(self.mean, self.weights, 1 - min(self.decay, self._steps / (self._steps + 9)))
            return
        self.clock += 1
        share = 1 - (self.clock / (self.clock + 9)).clamp(max=self.decay)
        move = torch._foreach_sub(self.weights, self.mean)
        torch._foreach_mul_(move, share)
        torch._foreach_add_(self.mean, move)

    @torch.no_grad()
    def restore(self, weights: list[Tensor], steps: int) -> None:
        """Go on with a model that holds the average, and the weights that were being trained."""
        self.steps = steps
        for mine, mean, kept in zip(self.weights, self.mean, weights, strict=True):
            mean.copy_(mine)
            mine.copy_(kept)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights within."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, mean in zip(self.weights, self.mean, strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
