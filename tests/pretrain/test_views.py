"""The augmented view: what may be dropped, what stays, and that draws depend on nothing but their keys."""

import numpy as np
import pytest
import torch

import recbole_unisrec  # noqa: F401
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.views import (
    Augmentation,
    Rows,
    cut_rows,
    draws,
    hashed_uniform,
    item_drop,
    next_items,
    word_drop,
)


def rows_of(*lengths: int) -> Rows:
    """Items 1, 2, ... of which whole histories predict."""
    length = torch.tensor(lengths)
    return Rows(torch.arange(1, sum(lengths) + 1), length, length.cumsum(0) - 1)


def split(rows: Rows) -> list[list[int]]:
    return [part.tolist() for part in rows.items.split(rows.length.tolist())]


def test_item_drop_row_by_row() -> None:
    rows = rows_of(4, 1, 3)
    uniform = torch.tensor([0.0, 0.1, 0.9, 0.1, 0.0, 0.0, 0.9, 0.1])
    dropped = item_drop(rows, uniform, 0.2)
    assert split(rows) == [[1, 2, 3, 4], [5], [6, 7, 8]]
    assert split(dropped) == [[1, 3], [5], [6, 7]]  # the first of each history stays
    assert dropped.output.tolist() == [1, 2, 4]


def test_one_pass_over_a_segment_drops_as_from_each_prefix() -> None:
    length = torch.tensor([6, 3])
    segments = Rows(torch.arange(1, 10), length, torch.arange(9))
    uniform = torch.tensor([0.1, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9])
    dropped = item_drop(segments, uniform, 0.2)
    start = dropped.start[torch.tensor([0] * 6 + [1] * 3)]
    found = [dropped.items[a : b + 1].tolist() for a, b in zip(start, dropped.output, strict=True)]
    for row, (a, n) in enumerate(zip(segments.start.tolist(), length.tolist(), strict=True)):
        for size in range(1, n + 1):
            alone = item_drop(Rows(segments.items[a : a + size], torch.tensor([size]), torch.tensor([size - 1])),
                              uniform[a : a + size], 0.2)  # fmt: skip
            assert found[a + size - 1] == alone.items.tolist(), row


@pytest.mark.parametrize("at_a_time", [0, 1, 2, 3])
def test_packing_in_parts(at_a_time: int) -> None:
    rows = Rows(torch.arange(1, 12), torch.tensor([4, 2, 3, 2]), torch.tensor([1, 3, 5, 6, 8, 10]))
    parts, order = rows.packed(at_a_time)
    assert len(parts) == {0: 1, 1: 4, 2: 2, 3: 2}[at_a_time]
    history = [part.item[o - p : o + 1].tolist() for part in parts
               for o, p in zip(part.output, part.position[part.output], strict=True)]  # fmt: skip
    found = [history[o] for o in order]
    assert found == [[1, 2], [1, 2, 3, 4], [5, 6], [7], [7, 8, 9], [10, 11]]
    for part in parts:
        assert torch.equal(part.output, part.output.sort().values)  # in the order of the sequences
        assert sum(n * length for n, length in part.buckets) == len(part.item)
        assert [length for _, length in part.buckets] == sorted({length for _, length in part.buckets})
    if at_a_time == 0:
        assert parts[0].buckets == [(2, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("lengths", [(1,), (5,), (1, 1, 1)])
def test_one_row_and_rows_of_length_one(lengths: tuple[int, ...]) -> None:
    rows = rows_of(*lengths)
    everything = item_drop(rows, torch.zeros(len(rows.items)), 1.0)
    assert everything.length.tolist() == [1] * len(lengths)
    assert torch.equal(everything.items, rows.items[rows.start])
    assert everything.output.tolist() == list(range(len(lengths)))
    nothing = item_drop(rows, torch.full((len(rows.items),), 0.5), 0.2)
    assert torch.equal(nothing.items, rows.items)
    assert torch.equal(nothing.output, rows.output)


def test_word_drop_changes_features_only() -> None:
    rows = rows_of(3, 1)
    changed = word_drop(rows, torch.tensor([0.0, 0.9, 0.0, 0.9]), 0.2, 100)
    assert changed.items.tolist() == [101, 2, 103, 4]
    assert torch.equal(changed.length, rows.length)
    assert torch.equal(changed.output, rows.output)


def test_draws_follow_the_row_not_its_place_in_the_batch() -> None:
    rows = rows_of(4, 2, 7)
    numbers = torch.tensor([40, 7, 12])
    whole = draws(rows, numbers, 5).split(rows.length.tolist())
    for i, row in enumerate(rows.items.split(rows.length.tolist())):
        alone = draws(Rows(row, rows.length[i : i + 1], torch.tensor([len(row) - 1])), numbers[i : i + 1], 5)
        assert torch.equal(alone, whole[i])
    assert not torch.equal(draws(rows, numbers, 6), torch.cat(whole))


def test_hash_is_uniform() -> None:
    drawn = hashed_uniform(np.arange(200_000, dtype=np.uint64), 3)
    counts = np.histogram(drawn, bins=50, range=(0, 1))[0]
    assert (np.abs(counts - 4000) < 5 * np.sqrt(4000)).all()
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01


def test_share_of_batches_and_items() -> None:
    augmentation = Augmentation(0.2, 0.9, 10_000, seed=1)
    assert np.mean([augmentation.drops_items(0, step) for step in range(4000)]) == pytest.approx(0.9, abs=0.02)
    rows = rows_of(*[50] * 400)
    dropped = item_drop(rows, draws(rows, torch.arange(400), 3), 0.2)
    assert 1 - (dropped.length.sum() - 400).item() / (49 * 400) == pytest.approx(0.2, abs=0.01)
    with pytest.raises(UserError, match="item_drop_ratio"):
        Augmentation(1.2, 0.9, 10, 0)


def test_cut_rows_numbers_items_from_one() -> None:
    items = np.array([5, 6, 7, 0, 1], dtype=np.int32)
    start, stop, first = np.array([0, 3, 1]), np.array([2, 4, 4]), np.array([2, 1, 2])
    rows = cut_rows(items, start, stop, first)
    assert split(rows) == [[6, 7], [1], [7, 8, 1]]
    assert rows.output.tolist() == [1, 2, 4, 5]
    assert next_items(items, start, stop, first).tolist() == [8, 2, 1, 2]
