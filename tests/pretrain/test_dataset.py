"""Reading a mixture, drawing batches from it, and every mistake that it may hold."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset

from recbole_unisrec.data.features import scaling
from recbole_unisrec.distributed import World
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.dataset import MixtureDataset
from recbole_unisrec.pretrain.loader import PretrainLoader
from recbole_unisrec.pretrain.run import MODEL
from recbole_unisrec.pretrain.views import Augmentation
from recbole_unisrec.settings import build_config
from tests.pretrain.conftest import edit_json


def read(settings: dict[str, Any]) -> MixtureDataset:
    dataset = create_dataset(build_config(MODEL, "ab", [], settings))
    assert isinstance(dataset, MixtureDataset)
    return dataset


def loader(dataset: MixtureDataset, batch: int = 64, **options: Any) -> PretrainLoader:
    return PretrainLoader(dataset, batch, Augmentation(0.2, 0.5, dataset.features.n_items, 1), seed=1, **options)


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_an_epoch_holds_every_pair_once_and_mixes_domains(mixture: Path, tiny: dict[str, Any], pairs: str) -> None:
    dataset = read({**tiny, "MAX_ITEM_LIST_LENGTH": 20})
    items, offsets = np.load(mixture / "ab" / "ab.items.npy"), np.load(mixture / "ab" / "ab.offsets.npy")
    assert len(dataset.valid_users) == 8  # four of each domain
    expected = sorted(
        (tuple(items[max(offsets[u], t - 20) : t] + 1), items[t] + 1)
        for u in dataset.train_users
        for t in range(offsets[u] + 1, offsets[u + 1])
    )
    found, batches = [], loader(dataset, pairs=pairs)
    for batch in batches:
        ids = batch.unique
        (plain,) = batch.plain
        places = zip(plain.output, plain.position[plain.output], strict=True)
        history = [tuple(ids[plain.item[o - p : o + 1]].tolist()) for o, p in places]
        found += [(history[o], int(ids[t])) for o, t in zip(batch.plain_order, batch.target, strict=True)]
        domains = {int(i) > 24 for i in ids[batch.target]}
        assert domains == {False, True}
        assert torch.equal(ids[batch.target], batch.ids)
        assert (batch.owner is None) == (pairs == "random")
        assert batch.features is not None
        torch.testing.assert_close(batch.features, dataset.features[ids])
    assert sorted(found) == expected
    assert len(batches) == round(len(expected) / 64)


def test_features_of_both_domains_and_both_files(mixture: Path, tiny: dict[str, Any]) -> None:
    features = read(tiny).features
    table = features.on(torch.device("cpu"))
    assert table.shape == (2 * 49, 16)
    for part, suffix in enumerate(("feat1CLS", "feat2CLS")):
        for domain, name in enumerate("ab"):
            raw = np.fromfile(mixture / name / f"{name}.{suffix}", dtype=np.float32).reshape(24, 16)
            first = 49 * part + 1 + 24 * domain
            assert np.array_equal(table[first : first + 24].numpy(), raw)
    assert not table[0].any()


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_both_views_are_scaled_by_the_plain_features_of_their_domain(
    mixture: Path, tiny: dict[str, Any], how: str
) -> None:
    table = read({**tiny, "feature_scaling": how}).features.on(torch.device("cpu"))
    for domain, name in enumerate("ab"):
        plain, dropped = (
            torch.from_numpy(np.fromfile(mixture / name / f"{name}.{suffix}", dtype=np.float32).reshape(24, 16))
            for suffix in ("feat1CLS", "feat2CLS")
        )
        mean, matrix = scaling(plain, how)
        first = 1 + 24 * domain
        for part, rows in enumerate((plain, dropped)):
            found = table[49 * part + first : 49 * part + first + 24]
            torch.testing.assert_close(found, ((rows.double() - mean) @ matrix).float())


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_batches_depend_on_seed_epoch_and_step_only(mixture: Path, tiny: dict[str, Any], pairs: str) -> None:
    dataset = read(tiny)
    first, second = loader(dataset, pairs=pairs), loader(dataset, pairs=pairs)
    all_steps = list(first)
    second.start_at(0, 3)
    for a, b in zip(all_steps[3:], second, strict=True):
        assert torch.equal(a.unique, b.unique)
        assert torch.equal(a.view[0].item, b.view[0].item)
    assert not torch.equal(next(iter(first)).ids, all_steps[0].ids)  # the next epoch


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_processes_share_a_batch(mixture: Path, tiny: dict[str, Any], pairs: str) -> None:
    dataset = read(tiny)
    whole = next(iter(loader(dataset, pairs=pairs)))
    parts = [next(iter(loader(dataset, world=World(rank, 3), pairs=pairs))) for rank in range(3)]
    assert torch.cat([p.unique[p.target] for p in parts]).tolist() == whole.ids.tolist()
    last = [p.unique[p.view[0].item[p.view[0].output]][p.view_order] for p in (whole, *parts)]
    assert torch.cat(last[1:]).tolist() == last[0].tolist()
    assert all(torch.equal(p.ids, whole.ids) for p in parts)
    assert [len(p) for p in parts] == parts[0].sizes
    if pairs == "segments":
        assert whole.owner is not None
        assert all(torch.equal(p.owner, whole.owner) for p in parts)


@pytest.mark.parametrize("pairs", ["random", "segments"])
def test_domain_sampling(mixture: Path, tiny: dict[str, Any], pairs: str) -> None:
    dataset = read(tiny)
    for temperature in (1.0, 2.0, 1e6):
        batches = loader(dataset, domain_sampling=temperature, pairs=pairs)
        bounds, order = batches.rows.domains, batches.order(0)
        counts = np.diff(bounds)
        share = np.mean(order < bounds[1])
        expected = counts[0] ** (1 / temperature) / (counts ** (1 / temperature)).sum()
        assert len(order) == bounds[-1]
        assert share == pytest.approx(expected, abs=1 / len(order))
    with pytest.raises(UserError, match="domain_sampling"):
        loader(dataset, domain_sampling=0.0)


def test_too_small_a_batch(mixture: Path, tiny: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="too small"):
        loader(read(tiny), 1)
    with pytest.raises(UserError, match="too small"):
        loader(read(tiny), 3, world=World(0, 2))
    with pytest.raises(UserError, match="pretrain_pairs 'all'; choose one of random, segments"):
        loader(read(tiny), pairs="all")


def spoil_width(folder: Path) -> None:
    np.arange(24 * 8, dtype=np.float32).tofile(folder / "b" / "b.feat1CLS")
    edit_json(folder / "b" / "b.feat1CLS.json", width=8)


def spoil_item(folder: Path) -> None:
    path = folder / "ab" / "ab.items.npy"
    items = np.load(path)
    items[5] = 1000
    np.save(path, items)


def spoil_nan(folder: Path) -> None:
    path = folder / "b" / "b.feat1CLS"
    table = np.fromfile(path, dtype=np.float32)
    table[3] = np.nan
    table.tofile(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


BAD: dict[str, tuple[Any, str]] = {
    "width": (spoil_width, "differ in width"),
    "encoder": (lambda f: edit_json(f / "b" / "b.feat1CLS.json", encoder="bert"), "differ in encoder"),
    "domain": (lambda f: shutil.rmtree(f / "b"), "domain b of ab is missing"),
    "item": (spoil_item, "item 1000"),
    "augmented": (
        lambda f: (f / "a" / "a.feat2CLS").unlink(),
        "--encoder random --word_drop 0.15.*item_drop_coefficient=1",
    ),
    "features": (lambda f: (f / "a" / "a.feat1CLS").unlink(), "no text features"),
    "nan": (spoil_nan, "NaN"),
    "torn items": (lambda f: truncate(f / "ab" / "ab.items.npy"), "cannot read"),
    "zeros": (
        lambda f: np.zeros((24, 16), dtype=np.float32).tofile(f / "b" / "b.feat2CLS"),
        "b.feat2CLS holds nothing but zeros; remove it and make it again with .*--word_drop 0.15",
    ),
    "no description": (lambda f: (f / "a" / "a.feat1CLS.json").unlink(), "add --plm_size=16 if 24 rows of width 16"),
    "no mixture": (lambda f: (f / "ab" / "ab.mixture.json").unlink(), "is no mixture"),
    "torn description": (lambda f: truncate(f / "ab" / "ab.mixture.json"), "not a description"),
    "no folder": (lambda f: shutil.rmtree(f / "ab"), "no mixture"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_mixtures(mixture: Path, tiny: dict[str, Any], name: str) -> None:
    spoil, message = BAD[name]
    spoil(mixture)
    with pytest.raises(UserError, match=message):
        read(tiny)


def test_a_file_without_description_is_as_wide_as_the_others(mixture: Path, tiny: dict[str, Any]) -> None:
    (mixture / "b" / "b.feat1CLS.json").unlink()
    assert read(tiny).features.width == 16
    path = mixture / "b" / "b.feat1CLS"
    path.write_bytes(path.read_bytes()[: 12 * 16 * 4])
    with pytest.raises(UserError, match="12 rows of width 16, but the dataset has 24 items"):
        read(tiny)


def test_word_drop_features_are_not_needed_without_word_drop(mixture: Path, tiny: dict[str, Any]) -> None:
    for name in "ab":
        (mixture / name / f"{name}.feat2CLS").unlink()
    dataset = read({**tiny, "item_drop_coefficient": 1})
    assert all(int(batch.unique.max()) < 49 for batch in loader_of_items(dataset))


def loader_of_items(dataset: MixtureDataset) -> PretrainLoader:
    return PretrainLoader(dataset, 64, Augmentation(0.2, 1.0, dataset.features.n_items, 1), seed=1)
