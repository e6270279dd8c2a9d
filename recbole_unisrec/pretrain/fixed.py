"""Batches of pre-training in few fixed shapes: the host lays histories end to end, the device does the rest.

Distinct items of a batch are found on the device, in a table with room for as many as there can be, so that a step has
the same operations for every batch of a shape and can be recorded (`recbole_unisrec.graphs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from recbole_unisrec.data.fixed import distinct
from recbole_unisrec.data.sequences import PackedBatch
from recbole_unisrec.graphs import GraphedSteps, Recorder, compiled
from recbole_unisrec.pretrain.loader import PretrainLoader
from recbole_unisrec.pretrain.views import Rows

EIGHTHS = 8


@dataclass(frozen=True)
class PretrainShape:
    """Size of a batch.

    Attributes
    ----------
    positions, pairs
        T and P: items of the histories of a view, and pairs.
    items
        U: distinct items of both views and next items are no more.
    """

    positions: int
    pairs: int
    items: int


@dataclass
class FixedView:
    """Histories end to end, filled up with histories of the item 0 alone.

    Attributes
    ----------
    item, position, begin
        int64 [T] ids, places in their histories, and the place of [T] at which their histories begin.
    output
        int64 [P] places of [T] at which the histories of the pairs end.
    """

    item: Tensor
    position: Tensor
    begin: Tensor
    output: Tensor

    @classmethod
    def of(cls, rows: Rows, shape: PretrainShape) -> FixedView:
        """Fill up to a shape."""
        begin = torch.repeat_interleave(rows.start, rows.length)
        place = torch.arange(shape.positions)
        item = torch.zeros(shape.positions, dtype=torch.int64)
        item[: len(rows.items)] = rows.items
        place[: len(begin)] = begin
        position = torch.zeros_like(item)
        position[: len(begin)] = torch.arange(len(begin)) - begin
        output = torch.zeros(shape.pairs, dtype=torch.int64)
        output[: len(rows.output)] = rows.output
        return cls(item, position, place, output)

    def packed(self, item: Tensor, window: int) -> PackedBatch:
        """For the encoder, with `item` (rows of a table) in the place of ids."""
        none = item[:0]
        return PackedBatch(item, self.position, [], self.output, none, starts=self.begin, window=window)


@dataclass
class FixedBatch:
    """A batch of one process.

    Attributes
    ----------
    plain, view
        The two views.
    ids, owner
        int64 [P] next items, 0 for pairs that only fill up, and the segment that a pair comes from (see `contrast`).
    shape
        Its size.
    n_pairs
        Pairs that are there.
    window
        Longest history.
    """

    plain: FixedView
    view: FixedView
    ids: Tensor
    owner: Tensor
    shape: PretrainShape
    n_pairs: int
    window: int

    def __len__(self) -> int:
        return self.n_pairs

    def tensors(self) -> list[Tensor]:
        """All of them, in one order."""
        views = [getattr(v, f.name) for v in (self.plain, self.view) for f in fields(FixedView)]
        return [*views, self.ids, self.owner]

    def to(self, device: torch.device | str) -> FixedBatch:
        """Copy to a device."""
        views = [
            FixedView(*(getattr(v, f.name).to(device, non_blocking=True) for f in fields(FixedView)))
            for v in (self.plain, self.view)
        ]
        ids, owner = (t.to(device, non_blocking=True) for t in (self.ids, self.owner))
        return FixedBatch(views[0], views[1], ids, owner, self.shape, self.n_pairs, self.window)

    def localised(self) -> tuple[Tensor, PackedBatch, PackedBatch, Tensor]:
        """Distinct ids [U], and both views and next items [P] as rows of them."""
        zero = self.ids.new_zeros(1)
        together = torch.cat([zero, self.plain.item, self.view.item, self.ids])
        rows, place, _ = distinct(together, self.shape.items)
        n = self.shape.positions
        plain, view, target = place[1:].split([n, n, len(self.ids)])
        return rows, self.plain.packed(plain, self.window), self.view.packed(view, self.window), target


class FixedBatches:
    """The batches of a `PretrainLoader` of one process in fixed shapes.

    A shape is the mean batch of an epoch, so many eighths larger that the batch fits: two or three occur of each kind of
    second view. It follows from the batch alone, and with it the draws of dropout, wherever a run is taken up again.

    Parameters
    ----------
    loader
        What makes them.
    """

    def __init__(self, loader: PretrainLoader) -> None:
        self.loader = loader
        n = len(loader)
        self.pairs, self.positions = len(loader.dataset) / n, loader.rows.n_positions / n
        self.rows = int(loader.rows.domains[-1]) / n

    def __iter__(self) -> Iterator[FixedBatch]:
        for draw in self.loader.draws():
            yield self.fixed(draw.plain, draw.view, draw.ids, draw.owner)

    def fixed(self, plain: Rows, view: Rows, ids: Tensor, owner: Tensor | None) -> FixedBatch:
        """One batch."""
        changed = int((view.items >= self.loader.dataset.features.n_items).sum())  # items with words dropped
        n = len(plain.items)
        # next items are items of the histories too, but for the last of each
        mean = self.positions + self.rows + (self.loader.augmentation.ratio * self.positions if changed else 0)
        needed = max(n / self.positions, len(ids) / self.pairs, (n + len(plain) + changed) / mean)
        size = math.ceil(needed * EIGHTHS) / EIGHTHS
        positions, pairs, room = (math.ceil(part * size) for part in (self.positions, self.pairs, mean))
        shape = PretrainShape(positions, pairs, 1 + min(room, 2 * self.loader.dataset.features.n_items))
        padded = [torch.zeros(shape.pairs, dtype=torch.int64) for _ in range(2)]
        padded[0][: len(ids)] = ids
        padded[1][: len(ids)] = torch.arange(len(ids)) if owner is None else owner
        views = [FixedView.of(rows, shape) for rows in (plain, view)]
        window = self.loader.dataset.window
        return FixedBatch(views[0], views[1], padded[0], padded[1], shape, len(ids), window)


class RecordedPretraining:
    """Steps of a pre-training by `graphs.GraphedSteps`.

    Parameters
    ----------
    trainer
        A `pretrain.trainer.UniSRecPretrainTrainer`.
    recorder, tell
        See `graphs.GraphedSteps`.

    Attributes
    ----------
    sums
        float64 [2]: sums of the losses of the two tasks.
    """

    def __init__(self, trainer: Any, recorder: Recorder, tell: Any) -> None:
        self.trainer = trainer
        self.sums = torch.zeros(2, dtype=torch.float64, device=trainer.device)
        self.kept: dict[PretrainShape, FixedBatch] = {}
        self.steps = GraphedSteps(self.step, recorder, tell)
        self.losses = compiled(trainer.model.task_losses, trainer.training, tell)

    def step(self, shape: PretrainShape) -> None:
        """Losses, gradients and weights of the batch that is kept for a shape."""
        trainer = self.trainer
        trainer.optimizer.zero_grad(set_to_none=True)
        with trainer.autocast():
            seq_item, seq_seq = self.losses(self.kept[shape])
            loss = seq_item + trainer.model.weight_seq * seq_seq
        loss.backward()
        trainer.move_weights()
        self.sums += torch.stack([seq_item.detach(), seq_seq.detach()]).double()

    def __call__(self, batch: FixedBatch) -> None:
        """One step; the batch may lie in the host's memory."""
        if batch.shape not in self.kept:
            self.kept[batch.shape] = batch.to(self.trainer.device)
        else:
            for mine, other in zip(self.kept[batch.shape].tensors(), batch.tensors(), strict=True):
                mine.copy_(other, non_blocking=True)
        self.steps(batch.shape)
