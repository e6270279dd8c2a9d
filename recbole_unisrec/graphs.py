"""A training step as one launch: steps of one shape are recorded once as a CUDA graph and played back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import torch

from recbole_unisrec.data.fixed import FixedPlan, Shape
from recbole_unisrec.errors import UserError
from recbole_unisrec.setting_table import TrainingSettings

S = TypeVar("S", bound=Hashable)  # what says the shape of a step
R = TypeVar("R")
BACKEND = "inductor"  # of torch.compile
WARM_STEPS = 3  # of a shape before it is recorded: libraries choose kernels and take memory in these


def may_record(training: TrainingSettings) -> bool:
    """Whether the settings allow steps to be recorded: ``graphs`` is not off, and batches are packed."""
    return training.graphs != "off" and training.train_mode != "prefix"


def compiled(losses: Callable[..., R], training: TrainingSettings, tell: Callable[[str], None]) -> Callable[..., R]:
    """`losses` with its small operations made into few by ``torch.compile``, if ``graphs`` is compiled.

    Each shape is compiled when it comes first, which takes half a minute. If that fails, `tell` gets one sentence and
    `losses` is used as it is.
    """
    if training.graphs != "compiled":
        return losses
    from torch._dynamo.exc import TorchDynamoException  # half a second, which other runs need not wait

    fast, failed = torch.compile(losses, fullgraph=True, dynamic=False, backend=BACKEND), False

    def run(*args: Any) -> R:
        nonlocal failed
        if not failed:
            try:
                return fast(*args)
            except TorchDynamoException as error:
                failed = True
                why = " ".join(line for line in str(error).splitlines()[:2] if line)  # the second has the cause
                tell(
                    f"a step cannot be compiled ({why}); training goes on without (set "
                    "graphs=auto to do without from the start)"
                )
        return losses(*args)

    return run


class Recorder(Protocol):
    """What records and plays back; on a GPU `CudaRecorder`."""

    def run(self, step: Callable[[], None]) -> None:
        """Run a step as it is, where a recording would run it."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without running it; what is given back runs it."""


class CudaRecorder:
    """CUDA graphs that share one pool of memory, as they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def run(self, step: Callable[[], None]) -> None:
        """Run on the side stream that recordings need."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            step()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record one graph."""
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread that makes batches ahead takes pinned memory meanwhile
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                step()
        except RuntimeError:
            _out_of_recording(self.stream.device)
            raise
        return graph.replay


def _out_of_recording(device: torch.device) -> None:
    """Let random numbers be drawn again after a recording that broke off: their generator still believes in it."""
    generator = torch.cuda.default_generators[device.index or 0]
    generator.graphsafe_set_state(generator.clone_state())


class GraphedSteps(Generic[S]):
    """Runs steps by shape: some as they are, then as recordings.

    Parameters
    ----------
    step
        Does all of a step of a shape with tensors that stay in their place; nothing in it may look at the device.
    recorder
        See `Recorder`.
    tell
        Gets one sentence if recording fails; training then goes on without.
    """

    def __init__(self, step: Callable[[S], None], recorder: Recorder, tell: Callable[[str], None]) -> None:
        self.step, self.recorder, self.tell = step, recorder, tell
        self.played: dict[S, Callable[[], None]] = {}
        self.runs: Counter[S] = Counter()
        self.failed = False

    def __call__(self, shape: S) -> None:
        """Run one step."""
        if shape in self.played:
            self.played[shape]()
            return

        def step() -> None:
            self.step(shape)

        self.runs[shape] += 1
        if self.failed or self.runs[shape] <= WARM_STEPS:
            self.recorder.run(step)
            return
        try:
            self.played[shape] = self.recorder.record(step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.failed = True
            self.played.clear()
            self.tell(
                f"a step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); training goes on without "
                "graphs (set graphs=off to do without from the start)"
            )
            self.recorder.run(step)
            return
        self.played[shape]()


class GraphedEpochs:
    """Epochs of a trainer by `GraphedSteps`.

    Parameters
    ----------
    trainer
        A `trainer.PackedTrainer`; its model, optimizer, average, autocast and gradient clipping are used.
    plan
        The batches.
    recorder, tell
        See `GraphedSteps`.
    """

    def __init__(self, trainer: Any, plan: FixedPlan, recorder: Recorder, tell: Callable[[str], None]) -> None:
        self.trainer, self.plan = trainer, plan
        self.total = torch.zeros((), device=trainer.device)
        self.steps = GraphedSteps(self.step, recorder, tell)
        self.loss = compiled(self._loss, trainer.training, tell)

    def _loss(self, shape: Shape) -> torch.Tensor:
        loss: torch.Tensor = self.trainer.model.calculate_loss(self.plan.batch(shape))
        return loss

    def step(self, shape: Shape) -> None:
        """Batch, loss, gradients, weights and their average, from and into tensors that stay in their place."""
        trainer = self.trainer
        trainer.optimizer.zero_grad(set_to_none=True)
        with trainer.autocast():
            loss = self.loss(shape)
        loss.backward()
        trainer.move_weights()
        self.total += loss.detach()

    def run(self, epoch: int, check_every: int, bar: Callable[[Any], Any], message: Callable[[int], str]) -> float:
        """All steps of an epoch; the mean loss.

        Parameters
        ----------
        epoch
            Its number.
        check_every
            Steps between looks at the loss.
        bar
            Wraps the steps for a progress bar.
        message
            The sentence for a loss that is not finite, by the number of the step.

        Raises
        ------
        UserError
            If a loss was NaN or infinite.
        """
        self.total.zero_()
        shapes = self.plan.epoch(epoch)
        for number, shape in enumerate(bar(shapes)):
            self.plan.choose(number)
            self.steps(shape)
            last = number + 1 == len(shapes)
            if (number % check_every == 0 or last) and not torch.isfinite(self.total):
                raise UserError(message(number))
        return float(self.total) / max(1, len(shapes))
