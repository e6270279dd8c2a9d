import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_unisrec.data.sequences import (
    SIZES,
    PackedLoader,
    Segments,
    bucket_lengths,
    filled_up,
    pack,
    pack_last,
)
from recbole_unisrec.data.splits import Sequences, Split, leave_one_out
from recbole_unisrec.model.encoder import CausalTransformer


def by_hand(sequences: list[list[int]], window: int) -> dict[str, list[tuple[list[int], int]]]:
    """The obvious leave-one-out: (prefix, next item) pairs of each part."""
    parts: dict[str, list[tuple[list[int], int]]] = {"train": [], "valid": [], "test": []}
    for s in sequences:
        pairs = [(s[max(0, t - window) : t], s[t]) for t in range(1, len(s))]
        held = min(2, max(len(pairs) - 1, 0))
        parts["train"] += pairs[: len(pairs) - held]
        if held == 2:
            parts["valid"].append(pairs[-2])
        if held:
            parts["test"].append(pairs[-1])
    return parts


def split(sequences: list[list[int]], window: int) -> Split:
    """Times are such that users come one after the other."""
    lengths = [len(s) for s in sequences]
    items, users = np.concatenate([np.array(s) for s in sequences]), np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return leave_one_out(Sequences.of(users, items, np.arange(float(len(items)))), window)


lists = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=25), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(lists, st.integers(1, 8))
def test_leave_one_out_equals_the_obvious_one(sequences: list[list[int]], window: int) -> None:
    parts = split(sequences, window)
    for name, expected in by_hand(sequences, window).items():
        pairs = getattr(parts, name)
        rows = pairs.padded(slice(None), window)
        found = [(row[row > 0].tolist(), int(pairs.items[t])) for row, t in zip(rows, pairs.target, strict=True)]
        assert found == expected


@settings(max_examples=80, deadline=None)
@given(lists, st.integers(1, 8), st.booleans())
def test_segments_predict_each_training_item_once(sequences: list[list[int]], window: int, exact: bool) -> None:
    parts = split(sequences, window)
    segments = parts.segments(window, exact)
    predicted = []
    for start, stop, first in zip(segments.start, segments.stop, segments.first, strict=True):
        assert stop - start - 1 <= window
        assert 1 <= first < stop - start
        for t in range(int(start + first), int(stop)):
            predicted.append(t)
            whole = t - int(parts.train.start[parts.train.target == t])  # history of this pair in the exact split
            seen = t - int(start)
            assert seen == whole if exact else min(whole, window // 2) <= seen <= whole
    assert sorted(predicted) == sorted(parts.train.target.tolist())


def encoder() -> CausalTransformer:
    torch.manual_seed(0)
    module = CausalTransformer(2, 2, 8, 12, 0.0, 0.0, "gelu", 1e-12).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


@settings(max_examples=30, deadline=None)
@given(lists, st.integers(2, 8))
def test_packed_outputs_equal_prefixes_encoded_one_by_one(sequences: list[list[int]], window: int) -> None:
    parts = split(sequences, window)
    if not len(parts.train):
        return
    segments = parts.segments(window, exact=True)
    batch = pack(segments, torch.randperm(len(segments)), bucket_lengths(window))
    assert sum(n * length for n, length in batch.buckets) == len(batch.item)
    table, places = torch.randn(31, 8, dtype=torch.float64), torch.randn(window, 8, dtype=torch.float64)
    module = encoder()
    outputs = module(table[batch.item] + places[batch.position], batch.buckets)[batch.output]
    expected = []
    for row, target in zip(parts.train.padded(slice(None), window), parts.train.target, strict=True):
        prefix = row[row > 0]
        alone = module(table[prefix] + places[: len(prefix)], [(1, len(prefix))])[-1]
        expected.append((int(parts.train.items[target]), alone.tolist()))
    found = [(int(t), o.tolist()) for t, o in zip(batch.target, outputs, strict=True)]
    for (t, o), (u, p) in zip(sorted(found), sorted(expected), strict=True):
        assert t == u
        assert o == pytest.approx(p, abs=1e-12)


def test_pack_last_gives_one_output_for_each_row() -> None:
    parts = split([[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]], window=3)
    batch, order = pack_last(parts.test, torch.arange(2), bucket_lengths(3))
    assert batch.target[order.argsort()].tolist() == [4, 10]
    assert [batch.item[i].item() for i in batch.output[order.argsort()]] == [3, 9]


def test_loader_covers_every_pair_once_an_epoch_in_a_seeded_order() -> None:
    rng = np.random.default_rng(0)
    parts = split([rng.integers(1, 30, n).tolist() for n in rng.integers(3, 20, 50)], window=8)
    segments = parts.segments(8)
    first, again = (PackedLoader(segments, 32, 8, seed=1) for _ in range(2))
    batches = list(first)
    assert len(batches) == len(first)
    targets = torch.cat([b.target for b in batches])
    assert sorted(targets.tolist()) == sorted(parts.train.items[parts.train.target].tolist())
    assert torch.equal(targets, torch.cat([b.target for b in again]))
    assert not torch.equal(targets, torch.cat([b.target for b in first]))  # the next epoch


def test_bucket_lengths_reach_the_window() -> None:
    for window in (1, 2, 10, 50):
        lengths = bucket_lengths(window)
        assert lengths[-1] == window
        assert (lengths.diff() > 0).all()


def test_a_batch_that_is_filled_up_predicts_the_same() -> None:
    items = torch.arange(1, 41)
    segments = Segments(items, torch.tensor([0, 10, 30]), torch.tensor([10, 30, 40]), torch.tensor([1, 1, 1]))
    batch = pack(segments, torch.arange(3), bucket_lengths(20))
    filled = filled_up(batch)
    assert len(batch.item) % SIZES
    assert len(filled.item) == len(filled.position) == sum(n * length for n, length in filled.buckets)
    assert len(filled.item) % SIZES == 0
    assert filled.output is batch.output
    assert filled.target is batch.target
    assert not filled.item[len(batch.item) :].any()
    assert not filled.one_each  # by chance there may be as many outputs as sequences
    assert filled_up(filled) is filled


def test_batches_with_one_output_each_stay_as_they_are() -> None:
    items = torch.arange(1, 21)
    segments = Segments(items, torch.tensor([0, 10]), torch.tensor([10, 20]), torch.tensor([9, 9]))
    batch = pack(segments, torch.arange(2), bucket_lengths(20))
    assert batch.one_each
    assert filled_up(batch) is batch
