"""Negatives: where they come from, and that their weights make the estimate of the full softmax's sum right."""

from typing import Any

import pytest
import torch

from recbole_unisrec.data.negatives import (
    NegativeSampler,
    localise,
    target_counts,
)
from recbole_unisrec.data.sequences import Segments, bucket_lengths, pack
from recbole_unisrec.errors import UserError
from recbole_unisrec.setting_checks import check_loss
from recbole_unisrec.setting_table import LossSettings

COUNTS = torch.tensor([0, 5, 1, 0, 2, 9, 3])


def settings(**changes: Any) -> LossSettings:
    return LossSettings(**{"loss": "sampled", "negatives": "uniform", "n_negatives": 4, "logq": True, "gbce_t": 0.75,
                              **changes})  # fmt: skip


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "uniform+batch", "popularity+batch"])
def test_the_weighted_sum_over_negatives_is_on_average_that_over_all_items(negatives: str) -> None:
    sampler = NegativeSampler(settings(negatives=negatives), COUNTS)
    value = torch.tensor([0.0, 1.0, 7.0, 2.0, 0.5, 3.0, 4.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    shares = COUNTS.double() / COUNTS.sum()
    sums = []
    for _ in range(20_000):
        targets = torch.multinomial(shares, 3, replacement=True, generator=generator)
        drawn = sampler.draw(targets, generator)
        assert drawn.item.min() >= 1
        sums.append(float((drawn.log_weight.double().exp() * value[drawn.item]).sum()))
    assert torch.tensor(sums).mean() == pytest.approx(float(value.sum()), rel=0.02)


def test_negatives_of_the_batch_alone_are_its_next_items() -> None:
    sampler = NegativeSampler(settings(negatives="batch"), COUNTS)
    drawn = sampler.draw(torch.tensor([5, 1, 5]), torch.Generator())
    assert drawn.item.tolist() == [1, 5]
    expected = torch.tensor([1 / (3 * 5 / 20), 2 / (3 * 9 / 20)])
    torch.testing.assert_close(drawn.log_weight.exp(), expected)


def test_without_correction_a_negative_weighs_as_often_as_it_was_drawn() -> None:
    for changed in ({"logq": False}, {"loss": "gbce"}):
        sampler = NegativeSampler(settings(n_negatives=50, **changed), COUNTS)
        drawn = sampler.draw(torch.tensor([1]), torch.Generator().manual_seed(1))
        assert float(drawn.log_weight.exp().sum()) == pytest.approx(50)


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_items_held_out_are_no_negatives(negatives: str) -> None:
    cold = torch.tensor([False, False, True, False, True, False, False])
    counts = COUNTS.clone()
    counts[cold] = 0
    sampler = NegativeSampler(settings(negatives=negatives, n_negatives=500), counts, cold)
    assert sampler.draw(torch.tensor([1]), torch.Generator().manual_seed(0)).item.tolist() == [1, 3, 5, 6]


def test_next_items_are_counted_segment_by_segment() -> None:
    items = torch.tensor([3, 1, 2, 2, 1, 3])
    segments = Segments(items, torch.tensor([0, 1, 4]), torch.tensor([4, 4, 6]), torch.tensor([1, 2, 1]))
    # next items: 1 2 2 of the first, 2 of the second (from its place 2 on), 3 of the third
    assert target_counts(segments, 4).tolist() == [0, 1, 3, 1]


def test_rows_of_a_batch_stand_for_its_items() -> None:
    items = torch.tensor([30, 10, 20, 20, 10, 30])
    segments = Segments(items, torch.tensor([0, 3]), torch.tensor([3, 6]), torch.tensor([1, 1]))
    batch = pack(segments, torch.tensor([0, 1]), bucket_lengths(4))
    drawn = NegativeSampler(settings(), torch.ones(40, dtype=torch.int64)).draw(batch.target, torch.Generator())
    local = localise(batch, drawn)
    assert local.rows is not None
    assert local.drawn is not None
    for found, wanted in ((local.item, batch.item), (local.target, batch.target), (local.drawn.item, drawn.item)):
        torch.testing.assert_close(local.rows[found], wanted)
    assert len(local.rows.unique()) == len(local.rows)
    torch.testing.assert_close(local.rows[local.histories().item], batch.histories().item)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": "foo"}, "loss must be one of full, sampled, gbce, not 'foo'"),
        ({"negatives": "foo"}, "negatives must be one of uniform, popularity, batch"),
        ({"n_negatives": 0}, "n_negatives must be a whole number"),
        ({"gbce_t": 2}, "gbce_t must be a number from 0 to 1, not 2"),
        ({"loss": "gbce", "negatives": "popularity"}, "gBCE is derived for uniform negatives"),
        ({"train_mode": "prefix"}, "goes with train_mode packed"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], sentence: str) -> None:
    config = {"loss": "sampled", "negatives": "uniform", "n_negatives": 4, "logq": True, "gbce_t": 0.75,
              "train_mode": "packed", **changes}  # fmt: skip
    with pytest.raises(UserError, match=sentence):
        check_loss(config)
    check_loss({**config, "loss": "full", "negatives": "uniform", "n_negatives": 1, "gbce_t": 1})
