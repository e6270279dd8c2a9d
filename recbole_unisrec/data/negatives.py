"""Which items stand for all others in a step: drawn once for the whole batch, by seed, epoch and step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recbole_unisrec.data.sequences import PackedBatch, Segments
from recbole_unisrec.errors import UserError

SOURCES = ("uniform", "popularity", "batch", "uniform+batch", "popularity+batch")


@dataclass(frozen=True)
class SampledSettings:
    """Settings of a loss over a sample of the items.

    Attributes
    ----------
    loss
        ``sampled`` or ``gbce``.
    negatives
        Where negatives come from, one of `SOURCES`.
    n_negatives
        How many are drawn for a batch, beside its own items.
    logq
        Whether sampled softmax weighs each by how often it was to be expected.
    gbce_t
        Calibration t of gBCE.
    """

    loss: str
    negatives: str
    n_negatives: int
    logq: bool
    gbce_t: float

    @classmethod
    def from_config(cls, config: Any) -> SampledSettings | None:
        """Read them from a RecBole ``Config``; None for the softmax over all items.

        Raises
        ------
        UserError
            If a value is out of range, or settings do not go together.
        """
        loss = config["loss"] or "full"
        if loss not in ("full", "sampled", "gbce"):
            raise UserError(f"unknown loss {loss!r}; choose one of full, sampled, gbce")
        if loss == "full":
            return None
        if config["train_mode"] == "prefix":
            raise UserError(f"loss {loss} goes with train_mode packed, not prefix; leave train_mode out")
        negatives, n_negatives, t = config["negatives"], config["n_negatives"], config["gbce_t"]
        if negatives not in SOURCES:
            raise UserError(f"unknown negatives {negatives!r}; choose one of {', '.join(SOURCES)}")
        if not isinstance(n_negatives, int) or n_negatives < 1:
            raise UserError(f"n_negatives must be a whole number, 1 or more, not {n_negatives!r}")
        if not isinstance(t, int | float) or not 0 <= t <= 1:
            raise UserError(f"gbce_t must lie between 0 and 1, not {t!r}")
        if loss == "gbce" and negatives != "uniform":
            raise UserError(f"gBCE is derived for uniform negatives, not for {negatives}; leave negatives out")
        return cls(loss, negatives, n_negatives, config["logq"] is not False, float(t))


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
        See `SampledSettings`.
    counts
        int64 [n_items] how often each item is the next one in training (`target_counts`); item 0 is padding.
    cold
        bool [n_items], True for items that training must not know; None is none of them.
    """

    def __init__(self, settings: SampledSettings, counts: Tensor, cold: Tensor | None = None) -> None:
        self.settings = settings
        self.known = None if cold is None else (~cold).nonzero().squeeze(1)[1:]
        self.n_items = len(counts) - 1 if self.known is None else len(self.known)  # that can be drawn
        self.target_share = counts.double() / counts.sum()
        self.drawn = settings.n_negatives if settings.negatives != "batch" else 0
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
        parts = []
        if self.drawn and self.cumulated is not None:
            place = torch.rand(self.drawn, dtype=torch.float64, generator=generator) * self.cumulated[-1]
            parts.append(torch.searchsorted(self.cumulated, place, right=True).clamp_(max=len(self.cumulated) - 1))
        elif self.drawn:
            place = torch.randint(self.n_items, (self.drawn,), generator=generator)
            parts.append(place + 1 if self.known is None else self.known[place])
        if self.with_batch:
            parts.append(targets)
        item, count = torch.cat(parts).unique(return_counts=True)
        weight = count.double()
        if self.settings.loss == "sampled" and self.settings.logq:
            weight /= self.expected(item, len(targets))
        return Drawn(item, weight.log().float())

    def expected(self, item: Tensor, n_targets: int) -> Tensor:
        """How often each of the items is to be expected among the negatives of a batch of `n_targets`, float64."""
        found = torch.zeros(len(item), dtype=torch.float64)
        if self.drawn and self.cumulated is not None:
            found += self.drawn * (self.cumulated[item] - self.cumulated[item - 1])
        elif self.drawn:
            found += self.drawn / self.n_items
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
