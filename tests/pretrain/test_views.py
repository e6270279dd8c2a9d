"""The augmented view: what may be dropped, what stays, and that draws depend on nothing but their keys."""

import numpy as np
import pytest
import torch

import recbole_unisrec  # noqa: F401
from recbole_unisrec.data.sequences import bucket_lengths
from recbole_unisrec.errors import UserError
from recbole_unisrec.pretrain.views import Augmentation, Rows, cut_rows, draws, hashed_uniform, item_drop, word_drop


def rows_of(*lengths: int) -> Rows:
    total = sum(n + 1 for n in lengths)
    return Rows(torch.arange(1, total + 1), torch.tensor(lengths))


def split(rows: Rows) -> list[list[int]]:
    return [part.tolist() for part in rows.items.split((rows.length + 1).tolist())]


def test_item_drop_row_by_row() -> None:
    rows = rows_of(4, 1, 3)
    uniform = torch.tensor([0.0, 0.1, 0.9, 0.1, 0.0, 0.0, 0.0, 0.9, 0.9, 0.1, 0.9])
    assert split(rows) == [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11]]
    dropped = item_drop(rows, uniform, 0.2)
    assert split(dropped) == [[1, 3, 5], [6, 7], [8, 9, 11]]  # the first of each history and the next item stay
    assert torch.equal(dropped.target, rows.target)
    for at_a_time in (0, 1, 2):
        parts, order = dropped.pack(bucket_lengths(4), at_a_time)
        last = torch.cat([part.position[part.output] for part in parts])
        assert last[order].tolist() == (dropped.length - 1).tolist()


@pytest.mark.parametrize("lengths", [(1,), (5,), (1, 1, 1)])
def test_one_row_and_rows_of_length_one(lengths: tuple[int, ...]) -> None:
    rows = rows_of(*lengths)
    everything = item_drop(rows, torch.zeros(len(rows.items)), 1.0)
    assert everything.length.tolist() == [1] * len(lengths)
    assert torch.equal(everything.items[everything.start], rows.items[rows.start])
    nothing = item_drop(rows, torch.full((len(rows.items),), 0.5), 0.2)
    assert torch.equal(nothing.items, rows.items)


def test_word_drop_changes_histories_only() -> None:
    rows = rows_of(3, 1)
    changed = word_drop(rows, torch.tensor([0.0, 0.9, 0.0, 0.0, 0.9, 0.0]), 0.2, 100)
    assert changed.items.tolist() == [101, 2, 103, 4, 5, 6]
    assert torch.equal(changed.length, rows.length)


def test_draws_follow_the_row_not_its_place_in_the_batch() -> None:
    rows = rows_of(4, 2, 7)
    numbers = torch.tensor([40, 7, 12])
    whole = draws(rows, numbers, 5).split((rows.length + 1).tolist())
    for i, row in enumerate(rows.items.split((rows.length + 1).tolist())):
        alone = draws(Rows(row, rows.length[i : i + 1]), numbers[i : i + 1], 5)
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
    rows = cut_rows(items, np.array([0, 3, 1]), np.array([2, 4, 2]))
    assert split(rows) == [[6, 7, 8], [1, 2], [7, 8]]
