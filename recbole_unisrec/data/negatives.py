"""Which items stand for all others in a step: drawn once for the whole batch, by seed, epoch and step."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, Segments
from recbole_unisrec.setting_table import LossSettings


@dataclass(frozen=True)
class Drawn:
    """Negatives of a batch.

    Attributes
    ----------
    item
        int64 [M], distinct: item ids, or rows of the batch's own table (see `localise`).
    log_weight
        float32 [M], see `model.sampled_losses.sampled_loss`.
    """

    item: Tensor
    log_weight: Tensor

    def to(self, device: torch.device | str) -> Drawn:
        """Copy to a device."""
        return Drawn(self.item.to(device, non_blocking=True), self.log_weight.to(device, non_blocking=True))


def target_counts(segments: Segments, n_items: int) -> Tensor:
    """int64 [n_items]: how often each item is the next one."""
    edges = torch.zeros(len(segments.items) + 1, dtype=torch.int32)
    edges.index_add_(0, segments.start + segments.first, torch.ones(len(segments), dtype=torch.int32))
    edges.index_add_(0, segments.stop, torch.full((len(segments),), -1, dtype=torch.int32))
    times = edges.cumsum(0, dtype=torch.int32)[:-1]
    return torch.zeros(n_items, dtype=torch.int64).index_add_(0, segments.items, times.long())


class NegativeSampler:
    """Draws the negatives of a batch.

    Parameters
    ----------
    settings
        Of a ``loss`` over a sample.
    counts
        int64 [n_items] how often each item is the next one in training (`target_counts`); item 0 is padding.
    cold
        bool [n_items], True for items that training must not know; None is none of them.
    """

    def __init__(self, settings: LossSettings, counts: Tensor, cold: Tensor | None = None) -> None:
        self.settings = settings
        self.known = None if cold is None else (~cold).nonzero().squeeze(1)[1:]
        self.n_items = len(counts) - 1 if self.known is None else len(self.known)  # that can be drawn
        self.target_share = counts.double() / counts.sum()
        self.n_drawn = settings.n_negatives if settings.negatives != "batch" else 0
        self.with_batch = settings.negatives.endswith("batch")
        self.cumulated: Tensor | None = None
        if settings.negatives.startswith("popularity"):
            weight = counts.double() + 1  # one more each, so that no item is out of reach
            weight[0] = 0
            if cold is not None:
                weight[cold] = 0
            self.cumulated = (weight / weight.sum()).cumsum(0)

    def draw(self, targets: Tensor, generator: torch.Generator) -> Drawn:
        """Negatives for a batch with these next items, int64 [P]."""
        parts = [self.draw_items(generator)]
        if self.with_batch:
            parts.append(targets)
        item, count = torch.cat(parts).unique(return_counts=True)
        return Drawn(item, self.log_weight(item, count.double(), len(targets)))

    def draw_items(self, generator: torch.Generator) -> Tensor:
        """The items that are drawn for a batch beside its own, int64 [``n_drawn``], some of them several times."""
        if self.n_drawn and self.cumulated is not None:
            place = torch.rand(self.n_drawn, dtype=torch.float64, generator=generator) * self.cumulated[-1]
            return torch.searchsorted(self.cumulated, place, right=True).clamp_(max=len(self.cumulated) - 1)
        place = torch.randint(self.n_items, (self.n_drawn,), generator=generator)
        return place + 1 if self.known is None else self.known[place]

    def log_weight(self, item: Tensor, count: Tensor, n_targets: int | Tensor) -> Tensor:
        """`Drawn.log_weight` of items that are there `count` times (float64) in a batch of `n_targets`."""
        if self.settings.loss == "sampled" and self.settings.logq:
            count = count / self.expected(item, n_targets)
        return count.log().float()

    def to(self, device: torch.device | str) -> NegativeSampler:
        """A copy whose `log_weight` takes items on a device."""
        moved = copy.copy(self)
        moved.target_share = self.target_share.to(device)
        moved.cumulated = None if self.cumulated is None else self.cumulated.to(device)
        return moved

    def expected(self, item: Tensor, n_targets: int | Tensor) -> Tensor:
        """How often each of the items is to be expected among the negatives of a batch of `n_targets`, float64."""
        found = torch.zeros(len(item), dtype=torch.float64, device=item.device)
        if self.n_drawn and self.cumulated is not None:
            found += self.n_drawn * (self.cumulated[item] - self.cumulated[item - 1])
        elif self.n_drawn:
            found += self.n_drawn / self.n_items
        if self.with_batch:
            found += n_targets * self.target_share[item]
        return found


def localise(batch: PackedBatch, drawn: Drawn) -> PackedBatch:
    """The batch with numbers of rows in the place of item ids; ``rows`` says which items these are.

    So a model computes the vectors of the items that a step needs, each once.
    """
    together = torch.cat([batch.item, batch.target, drawn.item])
    rows, place = together.unique(return_inverse=True)
    item, target, negative = place.split([len(batch.item), len(batch.target), len(drawn.item)])
    return replace(batch, item=item, target=target, rows=rows, drawn=Drawn(negative, drawn.log_weight))
