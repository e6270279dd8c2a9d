"""Which histories make each batch of pre-training: drawn anew each epoch, from all domains, a part for each process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.sequences import cut_segments
from recbole_unisrec.distributed import World
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.batch import PretrainBatch, make_batch
from recbole_unisrec.pretrain.dataset import MixtureDataset
from recbole_unisrec.pretrain.views import Augmentation, Rows, cut_rows, next_items

PAIRS = ("random", "segments")


@dataclass(frozen=True)
class Draw:
    """What a batch of a process is made of.

    Attributes
    ----------
    plain, view
        Its histories, in two views.
    ids, owner, sizes
        Of the global batch, see `pretrain.batch.PretrainBatch`.
    """

    plain: Rows
    view: Rows
    ids: Tensor
    owner: Tensor | None
    sizes: list[int]


class Pairs:
    """What batches are made of in the paper: each (history, next item) pair by itself.

    Parameters
    ----------
    dataset
        Its training users count.

    Attributes
    ----------
    domains
        int64 [n_domains + 1]: rows of the domains before each (users stand by domain).
    n_positions
        Items of all histories.
    """

    def __init__(self, dataset: MixtureDataset) -> None:
        self.dataset = dataset
        first = np.searchsorted(dataset.user_domain[dataset.train_users], np.arange(len(dataset.domains) + 1))
        self.domains: np.ndarray = dataset.pair_offsets[first]
        n, window = np.diff(dataset.pair_offsets), dataset.window  # histories of 1, 2, ... items, up to the window
        whole = np.minimum(n, window)
        self.n_positions = int((whole * (whole + 1) // 2 + (n - whole) * window).sum())

    def bounds(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``start``, ``stop`` and ``first`` of `views.cut_rows`, int64 [k], of the rows `index`."""
        owner = np.searchsorted(self.dataset.pair_offsets, index, side="right") - 1
        begin = self.dataset.offsets[self.dataset.train_users[owner]]
        stop = begin + 1 + index - self.dataset.pair_offsets[owner]
        start = np.maximum(begin, stop - self.dataset.window)
        return start, stop, stop - start


class Segments:
    """Stretches of user sequences, all of whose prefixes are in one batch: the encoder reads each once.

    Those of users with more than ``window + 1`` items overlap (`data.sequences.cut_segments`). See `Pairs`.
    """

    def __init__(self, dataset: MixtureDataset) -> None:
        o, users = dataset.offsets, dataset.train_users
        begin, end = torch.from_numpy(o[users]), torch.from_numpy(o[users + 1])
        cut = cut_segments(torch.empty(0), begin, end, dataset.window)
        self._bounds = tuple(t.numpy() for t in (cut.start, cut.stop - 1, cut.first))
        self.n_positions = int((self._bounds[1] - self._bounds[0]).sum())
        domain = dataset.user_domain[users[np.searchsorted(o[users], self._bounds[0], side="right") - 1]]
        self.domains: np.ndarray = np.searchsorted(domain, np.arange(len(dataset.domains) + 1))

    def bounds(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``start``, ``stop`` and ``first`` of `views.cut_rows`, int64 [k], of the rows `index`."""
        start, stop, first = self._bounds
        return start[index], stop[index], first[index]


class PretrainLoader:
    """Batches of (history, next item) pairs, or of segments, of all domains, in a new order each epoch.

    Parameters
    ----------
    dataset
        What to draw from.
    batch_size
        Pairs of the global batch. The batches of an epoch have as many rows, up to one, so with segments the number of
        pairs varies around it.
    augmentation
        How the second view is made.
    seed
        With it, the epoch and the step a batch is determined.
    domain_sampling
        Temperature T: a domain with n rows (pairs or segments) gets a share proportional to n^(1/T) of the epoch; 1 is
        proportional, large T is uniform. Small domains are then repeated.
    world
        The processes; each gets its rows of every batch.
    at_a_time
        Rows that go through the encoder together (``rows_at_a_time``); 0 is all.
    gather
        Whether batches bring the features of their items along (False: the table lies on the device).
    pairs
        ``random``: each pair by itself (the paper). ``segments``: all pairs of a stretch of a user's sequence together,
        which the encoder then reads once.

    Raises
    ------
    UserError
        If a batch would have no negatives.
    """

    def __init__(
        self, dataset: MixtureDataset, batch_size: int, augmentation: Augmentation, seed: int,
        domain_sampling: float = 1.0, world: World | None = None, gather: bool = True,
        at_a_time: int = 0, pairs: str = "random",
    ) -> None:  # fmt: skip
        if pairs not in PAIRS:
            raise UserError(f"unknown pretrain_pairs {pairs!r}; choose one of {', '.join(PAIRS)}")
        if not domain_sampling > 0:
            raise UserError(f"domain_sampling is a temperature and must be positive, not {domain_sampling}")
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed
        self.world, self.gather = world or World(), gather
        self.at_a_time = at_a_time
        self.temperature, self.epoch, self.first_step = domain_sampling, 0, 0
        self.rows: Pairs | Segments = Segments(dataset) if pairs == "segments" else Pairs(dataset)
        n_pairs, n_rows, least = len(dataset), int(self.rows.domains[-1]), 2 * self.world.size
        if batch_size < least or n_rows < least:
            raise UserError(
                f"a batch of {min(batch_size, n_rows)} {'pairs' if pairs == 'random' else 'sequences'} is too small: "
                f"every process needs 2 or more, so that there are negatives; set train_batch_size to {least} at "
                "least, and give more data"
            )
        self.n_batches = max(1, min(round(n_pairs / batch_size), n_rows // least))

    def __len__(self) -> int:
        return self.n_batches

    def start_at(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch of the next pass, and its first step."""
        self.epoch, self.first_step = epoch, step

    def order(self, epoch: int) -> np.ndarray:
        """int64 [n]: the rows (pairs or segments) of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        bounds = self.rows.domains
        if self.temperature == 1:
            return rng.permutation(int(bounds[-1]))
        counts = np.diff(bounds).astype(np.float64)
        share = np.where(counts > 0, np.maximum(counts, 1) ** (1 / self.temperature), 0)
        quota = np.diff(np.r_[0, np.round(np.cumsum(share / share.sum()) * bounds[-1])].astype(np.int64))
        parts = []
        for first, n, wanted in zip(bounds[:-1], counts.astype(np.int64), quota, strict=True):
            passes = [rng.permutation(n) for _ in range(-(-wanted // n) if n else 0)]
            parts.append(first + np.concatenate([*passes, np.empty(0, dtype=np.int64)])[:wanted])
        mixed = np.concatenate(parts)
        return mixed[rng.permutation(len(mixed))]

    def __iter__(self) -> Iterator[PretrainBatch]:
        features = self.dataset.features if self.gather else None
        n_ids = self.dataset.features.n_items * 2
        for draw in self.draws():
            before = sum(draw.sizes[: self.world.rank])
            target = draw.ids[before : before + draw.sizes[self.world.rank]]
            yield make_batch(
                draw.plain, draw.view, target, features, n_ids, draw.ids, draw.owner, draw.sizes, self.at_a_time
            )

    def draws(self) -> Iterator[Draw]:
        """What the batches of the epoch are made of."""
        order = self.order(self.epoch)
        cuts = np.linspace(0, len(order), self.n_batches + 1).astype(np.int64)
        for step in range(self.first_step, self.n_batches):
            yield self.draw(order, int(cuts[step]), int(cuts[step + 1]), step)
        self.epoch, self.first_step = self.epoch + 1, 0

    def draw(self, order: np.ndarray, first: int, last: int, step: int) -> Draw:
        """The part of this process of the global batch ``order[first:last]``."""
        bounds = self.rows.bounds(order[first:last])
        start, stop, least = bounds
        n_pairs = stop - start - least + 1
        cuts = np.linspace(0, last - first, self.world.size + 1).astype(np.int64)
        sizes = np.diff(np.r_[0, np.cumsum(n_pairs)][cuts])
        mine = slice(cuts[self.world.rank], cuts[self.world.rank + 1])
        plain = cut_rows(self.dataset.items, *(b[mine] for b in bounds))
        view = self.augmentation.view(plain, torch.arange(first, last)[mine], self.epoch, step)
        ids = next_items(self.dataset.items, *bounds)
        owner = None
        if isinstance(self.rows, Segments):
            owner = torch.from_numpy(np.repeat(np.arange(last - first), n_pairs))
        return Draw(plain, view, ids, owner, sizes.tolist())
