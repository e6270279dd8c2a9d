"""The pre-training set: sequences and features of several domains, as `dataset_tools.mixture` describes them.

Item ids are 1 + the mixture's global index; 0 is padding. An id beyond the last item, ``n_items + id``, stands for the
same item with its word-drop feature.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.features import UselessRows, open_features, read_meta, scaled_rows, scaling
from recbole_unisrec.data.sequences import PackedBatch, cut_segments
from recbole_unisrec.distributed import World
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.views import Augmentation, Rows, cut_rows, hashed_uniform, mix_seed, next_items

HELD_OUT_SHARE = 0.05  # of a domain's users at most
FEATURE_CHECK_ROWS = 8192
PAIRS = ("random", "segments")


@dataclass(frozen=True)
class DomainInfo:
    """One domain of a mixture.

    Attributes
    ----------
    name, folder
        Of its dataset.
    first_item, n_items
        Its items have the global indices ``first_item`` to ``first_item + n_items - 1``.
    """

    name: str
    folder: Path
    first_item: int
    n_items: int


class MixtureFeatures:
    """Text features of all domains, read where they lie.

    Parameters
    ----------
    domains
        Of the mixture.
    suffix, suffix_aug
        Of the feature files: plain, and with words dropped (None if they are not wanted).
    width
        Expected d_plm; None takes what the files say.
    how
        ``feature_scaling`` of `data.features.scale_features`, by the statistics of the plain features of each domain;
        other than ``none`` copies the tables.

    Raises
    ------
    UserError
        If a file is missing or broken, or the files differ in width or encoder.
    """

    def __init__(
        self, domains: list[DomainInfo], suffix: str, suffix_aug: str | None, width: int | None = None,
        how: str = "none",
    ) -> None:  # fmt: skip
        self.n_items = 1 + sum(d.n_items for d in domains)  # padding included
        self.starts = np.array([1 + d.first_item for d in domains])
        self.tables: list[list[np.ndarray]] = []
        self.encoder = ""
        seen: tuple[str, int, str] | None = None
        maps: dict[str, tuple[Tensor, Tensor]] = {}
        for part in [suffix] + ([suffix_aug] if suffix_aug else []):
            tables = []
            for domain in domains:
                path = domain.folder / f"{domain.name}.{part}"
                again = _encode_command(domain, suffix, "--word_drop 0.15" if part == suffix_aug else "")
                if not path.is_file():
                    what, instead = (
                        ("word-drop", ", or set item_drop_coefficient=1") if part == suffix_aug else ("text", "")
                    )
                    raise UserError(f"no {what} features: {path} does not exist; make it with {again}{instead}")
                same = None if "width" in read_meta(path) or seen is None else seen[1]
                table, encoder = open_features(path, domain.n_items, width or same)
                found = (f"{domain.name}.{part}", table.shape[1], encoder)
                seen = seen or found
                if found[1] != seen[1]:
                    raise UserError(
                        f"feature files differ in width: {seen[0]} has {seen[1]} and {found[0]} has {found[1]}; encode "
                        "one of the domains again with the encoder of the other"
                    )
                if encoder and seen[2] and encoder != seen[2]:
                    raise UserError(
                        f"feature files differ in encoder: {seen[0]} is of {seen[2]} and {found[0]} of {encoder}; "
                        "encode one of the domains again with the encoder of the other"
                    )
                self.encoder = self.encoder or encoder
                _check_values(path, table, again)
                if how != "none":
                    rows = torch.from_numpy(table.astype(np.float32))
                    # both views of an item go through one map, or they would differ by more than the words dropped
                    if part == suffix:
                        maps[domain.name] = scaling(rows, how)
                    table = scaled_rows(rows, *maps[domain.name]).numpy()
                tables.append(table)
            self.tables.append(tables)
        self.width = self.tables[0][0].shape[1]

    def __getitem__(self, ids: Tensor) -> Tensor:
        """float32 [k, d_plm] rows of int64 ids [k], ascending; row of id 0 is zero."""
        rows = np.zeros((len(ids), self.width), dtype=np.float32)
        numbers = ids.numpy()
        for part, tables in enumerate(self.tables):
            for start, table in zip(self.starts + part * self.n_items, tables, strict=True):
                low, high = np.searchsorted(numbers, [start, start + len(table)])
                if high > low:
                    rows[low:high] = table[numbers[low:high] - start]
        return torch.from_numpy(rows)

    def on(self, device: torch.device) -> Tensor:
        """All rows [n_items, d_plm] (word-drop rows below them) on a device."""
        ids = torch.arange(self.n_items * len(self.tables))
        table = torch.empty(len(ids), self.width, device=device)
        for block in ids.split(1 << 16):
            table[block[0] : block[-1] + 1] = self[block].to(device)
        return table


def _encode_command(domain: DomainInfo, suffix: str, option: str) -> str:
    """How to make a feature file of a domain, with the encoder of its plain one."""
    meta = read_meta(domain.folder / f"{domain.name}.{suffix}")
    pooling = f" --pooling {meta['pooling']}" if meta.get("pooling", "CLS") != "CLS" else ""
    command = (
        f"python -m dataset_tools.features {domain.folder} --encoder {meta.get('encoder', 'minilm')}{pooling} {option}"
    )
    return f"`{command.rstrip()}`"


def _check_values(path: Path, table: np.ndarray, again: str) -> None:
    useless = UselessRows()
    for first in range(0, len(table), FEATURE_CHECK_ROWS):
        block = table[first : first + FEATURE_CHECK_ROWS]
        if not np.isfinite(block.sum(dtype=np.float64)):
            raise UserError(f"{path} holds NaN or infinity; remove it and make it again with {again}")
        useless.add(block)
    if what := useless.what():
        raise UserError(f"{path} {what}; remove it and make it again with {again}")


def _read_description(folder: Path, name: str) -> tuple[dict[str, Any], list[DomainInfo]]:
    path = folder / f"{name}.mixture.json"
    if not path.is_file():
        raise UserError(
            f"{name!r} is no mixture: {path} does not exist; make it with `python -m dataset_tools.mixture DOMAIN ... "
            f"--name {name} --data {folder.parent}`"
        )
    again = "make the mixture again with `python -m dataset_tools.mixture ... --overwrite`"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        domains = [
            DomainInfo(str(d["name"]), (folder / d["folder"]).resolve(), int(d["first_item"]), int(d["n_items"]))
            for d in found["domains"]
        ]
        n_items, n_users = int(found["n_items"]), int(found["n_users"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a description of a mixture ({error!r}); {again}") from error
    ends = np.cumsum([0, *(d.n_items for d in domains)])
    if not domains or n_items != ends[-1] or [d.first_item for d in domains] != ends[:-1].tolist():
        raise UserError(f"{path} does not add up: its domains do not number its {n_items} items; {again}")
    for domain in domains:
        if not domain.folder.is_dir():
            raise UserError(
                f"the domain {domain.name} of {name} is missing: no folder {domain.folder}; put it back, or make the "
                "mixture again without it"
            )
    return {"n_items": n_items, "n_users": n_users}, domains


class MixtureDataset:
    """What RecBole's ``create_dataset`` hands out for pre-training.

    Parameters
    ----------
    config
        Reads ``data_path``, ``dataset``, ``MAX_ITEM_LIST_LENGTH``, ``plm_suffix``, ``plm_suffix_aug``, ``plm_size``,
        ``item_drop_coefficient``, ``feature_scaling`` and ``valid_users``.

    Attributes
    ----------
    items
        int32 [n_interactions], memory-mapped global item indices.
    offsets
        int64 [n_users + 1].
    train_users, valid_users
        int64 [...], users that train and, in each domain, users that are held out as a whole.

    Raises
    ------
    UserError
        If a file is missing or broken, an item belongs to no domain, or features do not fit.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.dataset_name = config, config["dataset"]
        self.window = int(config["MAX_ITEM_LIST_LENGTH"])
        if self.window < 1:
            raise UserError(f"MAX_ITEM_LIST_LENGTH must be 1 or more, not {self.window}")
        folder, name = Path(config["data_path"]), config["dataset"]
        if not folder.is_dir():
            raise UserError(f"no mixture {name!r}: no folder {folder}; see `python -m dataset_tools.mixture --help`")
        counts, self.domains = _read_description(folder, name)
        self.items = self._load(folder / f"{name}.items.npy", np.int32)
        self.offsets = np.asarray(self._load(folder / f"{name}.offsets.npy", np.int64))
        self.user_domain = np.asarray(self._load(folder / f"{name}.user_domain.npy", np.int16))
        self._check(folder, counts)
        if not isinstance(config["plm_suffix"], str):
            raise UserError(
                f"pre-training reads one feature file of each domain, but plm_suffix is {config['plm_suffix']}"
            )
        wants_words = float(config["item_drop_coefficient"]) < 1
        self.features = MixtureFeatures(
            self.domains, config["plm_suffix"], config["plm_suffix_aug"] if wants_words else None, config["plm_size"],
            config["feature_scaling"] or "none",
        )  # fmt: skip
        self.user_num, self.item_num = counts["n_users"] + 1, counts["n_items"] + 1
        self.train_users, self.valid_users = self._hold_out(int(config["valid_users"] or 0))

    def _load(self, path: Path, dtype: type) -> np.ndarray:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; make the mixture again with --overwrite") from error
        if found.dtype != dtype or found.ndim != 1:
            raise UserError(f"{path} holds {found.dtype} {list(found.shape)}, not {np.dtype(dtype)} [n]; make it again")
        return found

    def _check(self, folder: Path, counts: dict[str, int]) -> None:
        again = "make the mixture again with --overwrite"
        o, n_users = self.offsets, counts["n_users"]
        if len(o) != n_users + 1 or o[0] != 0 or o[-1] != len(self.items) or (np.diff(o) < 0).any():
            raise UserError(f"the offsets in {folder} do not fit the items (a torn file?); {again}")
        if len(self.user_domain) != n_users or (
            n_users and not 0 <= self.user_domain.min() <= self.user_domain.max() < len(self.domains)
        ):
            raise UserError(f"{folder} has users of an unknown domain; {again}")
        low = np.array([d.first_item for d in self.domains])
        high = low + [d.n_items for d in self.domains]
        for first in range(0, n_users, 1 << 18):  # block by block, as the array may be larger than the memory
            last = min(n_users, first + (1 << 18))
            domain = np.repeat(self.user_domain[first:last], np.diff(o[first : last + 1]))
            part = self.items[o[first] : o[last]]
            wrong = np.flatnonzero((part < low[domain]) | (part >= high[domain]))
            if len(wrong):
                raise UserError(
                    f"{folder} holds the item {part[wrong[0]]}, which is not of the domain of its user "
                    f"({self.domains[domain[wrong[0]]].name}) or of no domain at all; {again}"
                )

    def _hold_out(self, per_domain: int) -> tuple[np.ndarray, np.ndarray]:
        """Users of two items or more are held out by a hash of their number, the same ones in every run."""
        length = np.diff(self.offsets)
        usable = length >= 2
        drawn = hashed_uniform(np.arange(len(length), dtype=np.uint64), 0)
        held = np.zeros(len(length), dtype=bool)
        for number in range(len(self.domains)):
            users = np.flatnonzero(usable & (self.user_domain == number))
            n = min(per_domain, int(HELD_OUT_SHARE * len(users)))
            held[users[np.argsort(drawn[users], kind="stable")[:n]]] = True
        train = np.flatnonzero(usable & ~held)
        if not len(train):
            raise UserError(f"{self.dataset_name} has no user with two items or more; use larger domains")
        return train, np.flatnonzero(held)

    def num(self, field: str) -> int:
        """Number of users or items, padding included, as RecBole's ``Dataset.num``."""
        return self.user_num if field == self.config["USER_ID_FIELD"] else self.item_num

    def build(self) -> list[MixtureDataset]:
        """The same set three times: loaders know which users are theirs."""
        return [self, self, self]

    @cached_property
    def pair_offsets(self) -> np.ndarray:
        """int64 [n_train_users + 1]: (history, next item) pairs of the training users before each."""
        counts = self.offsets[self.train_users + 1] - self.offsets[self.train_users] - 1
        return np.r_[0, np.cumsum(counts)]

    def __len__(self) -> int:
        return int(self.pair_offsets[-1])

    def held_out(self, domain: int) -> tuple[Rows, Tensor]:
        """Histories of the held-out users of a domain, and int64 [n] their last items, to predict."""
        users = self.valid_users[self.user_domain[self.valid_users] == domain]
        target = self.offsets[users + 1] - 1
        start = np.maximum(self.offsets[users], target - self.window)
        bounds = (start, target, target - start)
        return cut_rows(self.items, *bounds), next_items(self.items, *bounds)


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
    """

    def __init__(self, dataset: MixtureDataset) -> None:
        self.dataset = dataset
        first = np.searchsorted(dataset.user_domain[dataset.train_users], np.arange(len(dataset.domains) + 1))
        self.domains: np.ndarray = dataset.pair_offsets[first]

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
        domain = dataset.user_domain[users[np.searchsorted(o[users], self._bounds[0], side="right") - 1]]
        self.domains: np.ndarray = np.searchsorted(domain, np.arange(len(dataset.domains) + 1))

    def bounds(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``start``, ``stop`` and ``first`` of `views.cut_rows`, int64 [k], of the rows `index`."""
        start, stop, first = self._bounds
        return start[index], stop[index], first[index]


@dataclass
class PretrainBatch:
    """The rows of one process, in two views, over the distinct items of both.

    Attributes
    ----------
    unique
        int64 [U] distinct ids, ascending (see the module).
    features
        float32 [U, d_plm], or None where the table lies on the device.
    plain, view
        Packed histories, in parts that go through the encoder one after the other; ``item`` counts rows of `unique`,
        ``target`` is empty.
    plain_order, view_order
        int64 [b]: which of the outputs, end to end, belongs to pair i.
    target
        int64 [b] rows of `unique`: the next items.
    ids
        int64 [B] next items of the global batch.
    owner
        int64 [B] segments that the pairs of the global batch come from, which are no negatives of one another; None
        where each pair stands by itself.
    sizes
        Pairs of each process; this one has ``sizes[rank]``.
    """

    unique: Tensor
    features: Tensor | None
    plain: list[PackedBatch]
    plain_order: Tensor
    view: list[PackedBatch]
    view_order: Tensor
    target: Tensor
    ids: Tensor
    owner: Tensor | None
    sizes: list[int]

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> PretrainBatch:
        """Copy to a device."""

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(each) for each in value]
            return value.to(device) if isinstance(value, Tensor | PackedBatch) else value

        return PretrainBatch(**{name: move(getattr(self, name)) for name in self.__dataclass_fields__})


def make_batch(
    plain: Rows, view: Rows, target: Tensor, features: Any, n_ids: int, ids: Tensor | None = None,
    owner: Tensor | None = None, sizes: list[int] | None = None, at_a_time: int = 0,
) -> PretrainBatch:  # fmt: skip
    """Pack two views of the same histories over their distinct items.

    Parameters
    ----------
    plain, view
        With the same number b of pairs.
    target
        int64 [b] ids of their next items.
    features
        Gives float32 [U, d_plm] of distinct ids; None leaves features out.
    n_ids
        Ids are below it.
    ids, owner, sizes
        See `PretrainBatch`; without them the batch is one process's.
    at_a_time
        See `views.Rows.packed`.
    """
    (parts, order), (view_parts, view_order) = plain.packed(at_a_time), view.packed(at_a_time)
    seen = torch.zeros(n_ids, dtype=torch.bool)  # faster than a sort
    for found in (plain.items, view.items, target):
        seen[found] = True
    unique = seen.nonzero().squeeze(1)
    row_of = torch.empty(n_ids, dtype=torch.int64)
    row_of[unique] = torch.arange(len(unique))
    for part in (*parts, *view_parts):
        part.item = row_of[part.item]
    gathered = features[unique] if features is not None else None
    ids = target if ids is None else ids
    return PretrainBatch(
        unique, gathered, parts, order, view_parts, view_order, row_of[target], ids, owner, sizes or [len(target)]
    )  # fmt: skip


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
        order = self.order(self.epoch)
        cuts = np.linspace(0, len(order), self.n_batches + 1).astype(np.int64)
        for step in range(self.first_step, self.n_batches):
            yield self.batch(order, int(cuts[step]), int(cuts[step + 1]), step)
        self.epoch, self.first_step = self.epoch + 1, 0

    def batch(self, order: np.ndarray, first: int, last: int, step: int) -> PretrainBatch:
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
        before = int(sizes[: self.world.rank].sum())
        target = ids[before : before + int(sizes[self.world.rank])]
        features = self.dataset.features if self.gather else None
        n_ids = self.dataset.features.n_items * 2
        return make_batch(plain, view, target, features, n_ids, ids, owner, sizes.tolist(), self.at_a_time)


__all__ = ["MixtureDataset", "PretrainBatch", "PretrainLoader", "make_batch", "mix_seed"]
