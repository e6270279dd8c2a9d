import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_unisrec.data.sequences import (
    PackedLoader,
    bucket_lengths,
    cut_segments,
    hold_out_items,
    keep_users,
    leave_one_out,
    pack,
    pack_last,
)
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


def split(sequences: list[list[int]], window: int):  # type: ignore[no-untyped-def]
    items = np.concatenate([np.array(s, dtype=np.int64) for s in sequences])
    offsets = np.r_[0, np.cumsum([len(s) for s in sequences])]
    return leave_one_out(items, offsets, np.arange(1, len(sequences) + 1), window)


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
    segments = cut_segments(parts.train.items, parts.train_start, parts.train_stop, window, exact)
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
    segments = cut_segments(parts.train.items, parts.train_start, parts.train_stop, window, exact=True)
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
    segments = cut_segments(parts.train.items, parts.train_start, parts.train_stop, 8)
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


def test_users_that_are_not_learned_from_stay_in_test() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 12, 40)
    offsets = np.r_[0, lengths.cumsum()]
    split = leave_one_out(rng.integers(1, 20, offsets[-1]), offsets, np.arange(1, 41), window=4)
    kept = torch.zeros(41, dtype=torch.bool)
    kept[[2, 3, 30]] = True
    few = keep_users(split, kept)
    assert set(few.train.user.tolist()) == set(few.train_user.tolist()) == {2, 3, 30}
    assert len(few.train) == sum(max(1, lengths[user - 1] - 3) for user in (2, 3, 30))
    assert int(cut_segments(few.train.items, few.train_start, few.train_stop, 4, exact=True).n_pairs.sum()) == len(
        few.train
    )
    assert (few.valid, few.test) == (split.valid, split.test)


def test_held_out_items_leave_no_trace_in_training() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 12, 60)
    offsets = np.r_[0, lengths.cumsum()]
    items = rng.integers(1, 20, offsets[-1])
    split = leave_one_out(items, offsets, np.arange(1, 61), window=4)
    cold = torch.zeros(20, dtype=torch.bool)
    cold[[3, 7, 11]] = True
    held = hold_out_items(split, cold, window=4)
    expected = []
    for user, start, stop in zip(
        split.train_user.tolist(), split.train_start.tolist(), split.train_stop.tolist(), strict=True
    ):
        warm = [i for i in items[start:stop].tolist() if not cold[i]]
        expected += [(user, warm[max(0, t - 4) : t], warm[t]) for t in range(1, len(warm))]
    train = held.train
    found = [
        (user, train.items[start:target].tolist(), int(train.items[target]))
        for user, start, target in zip(train.user.tolist(), train.start.tolist(), train.target.tolist(), strict=True)
    ]
    assert found == expected
    segments = cut_segments(train.items, held.train_start, held.train_stop, 4, exact=True)
    assert int(segments.n_pairs.sum()) == len(train)
    assert not cold[held.valid.items[held.valid.target]].any()
    assert held.test is split.test
