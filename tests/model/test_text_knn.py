"""Nearest texts against the formula, written out; and the mean of a history in both layouts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_unisrec import quick_start
from recbole_unisrec.data.sequences import Pairs, bucket_lengths, pack, pack_last
from recbole_unisrec.data.text_dataset import TextDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.evaluation import read_ranks
from recbole_unisrec.model.text_knn import TextKNN
from recbole_unisrec.model.text_vectors import history_mean, last_mean, unit_features
from recbole_unisrec.serving import load
from recbole_unisrec.settings import build_config

KNN = {"decay": 0.6, "popularity_weight": 0.3}


def settings(small: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = ("MAX_ITEM_LIST_LENGTH", "show_progress", "topk", "valid_metric", "use_gpu")
    return {**{name: small[name] for name in names}, **more}


def test_ranks_are_those_of_the_formula(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("TextKNN", "ring", [], settings(small, **KNN, topk=[3, 10]))
    result = quick_start.train(config)
    assert result.n_parameters == 0
    dataset = TextDataset(config)
    train, _, test = dataset.build()
    raw = dataset.features.weight[1:].double().numpy()
    raw = raw - raw.mean(axis=0)
    covariance = raw.T @ raw / len(raw)
    share = 1 - len(raw) / (5 * len(covariance))  # of few items it is shrunk
    assert 0.01 < share < 0.99
    values, vectors = np.linalg.eigh(
        (1 - share) * covariance + share * covariance.trace() / len(covariance) * np.eye(len(covariance))
    )
    white = raw @ (vectors / np.sqrt(values.clip(0) + 1e-3 * values.mean())) @ vectors.T
    unit = white / np.linalg.norm(white, axis=1, keepdims=True)
    popularity = train.item_popularity()[1:].numpy()
    expected = {}
    for i in range(len(test.pairs)):
        pairs = test.pairs
        history = pairs.items[pairs.start[i] : pairs.target[i]].numpy() - 1
        weight = 0.6 ** np.arange(len(history))[::-1]
        mean = weight @ unit[history] / np.sqrt((weight**2).sum())
        score = unit @ mean + 0.3 * np.log1p(popularity)
        score[history] = -np.inf
        target = int(pairs.items[pairs.target[i]]) - 1
        better = (score > score[target]).sum() + (score[:target] == score[target]).sum()
        expected[str(dataset.field2id_token["user_id"][pairs.user[i]])] = 1 + int(better)
    users, ranks = read_ranks(result.ranks)
    assert len(set(expected.values())) > 5  # else the ring would tell nothing apart
    assert dict(zip(users.tolist(), ranks.tolist(), strict=True)) == expected
    with pytest.raises(UserError, match="holds a TextKNN; UniSRec, SASRecPacked"):
        load(result.checkpoint)
    written = json.loads(Path(result.checkpoint).with_suffix(".json").read_text())
    assert written["test"]["hit@3"] == pytest.approx(np.mean([rank <= 3 for rank in expected.values()]), abs=1e-6)


def test_full_sort_equals_packed(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("TextKNN", "ring", [], settings(small, **KNN))
    _, _, test = TextDataset(config).build()
    model = TextKNN(config, test).eval()
    rows = test[torch.arange(12)]
    scores = model.full_sort_predict(rows)
    batch, order = pack_last(test.pairs, torch.arange(12), bucket_lengths(8))
    packed = model.packed_outputs(batch, model.eval_table()) @ model.eval_table().T
    seen = model.histories(batch)
    packed.index_put_((seen.row, seen.item), model.seen_bias(seen), accumulate=True)
    torch.testing.assert_close(packed, scores[order])
    torch.testing.assert_close(model.predict(rows), scores[torch.arange(12), rows["item_id"]])


def test_history_mean_in_both_layouts() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(40, 7, generator=generator), dim=1)
    table[0] = 0
    items = torch.randint(1, 40, (200,), generator=generator)
    target = torch.tensor([12, 13, 40, 90, 91, 130, 199])
    pairs = Pairs(items, torch.zeros(7, dtype=torch.int64), (target - torch.tensor([12, 1, 5, 30, 2, 17, 3])), target)
    weight = 0.7 ** torch.arange(30.0)
    batch, order = pack_last(pairs, torch.arange(7), bucket_lengths(30))
    packed = history_mean(table[batch.item], batch.buckets, weight)[batch.output]
    padded = last_mean(table[pairs.padded(order, 30)], (pairs.target - pairs.start)[order], weight)
    torch.testing.assert_close(packed, padded)
    history = items[90 - 30 : 90].flip(0)
    by_hand = (weight.unsqueeze(1) * table[history]).sum(0) / weight.square().sum().sqrt()
    torch.testing.assert_close(packed[order.tolist().index(3)], by_hand)


def test_each_position_sees_what_came_before(ring: Path, small: dict[str, Any]) -> None:
    dataset = TextDataset(build_config("TextKNN", "ring", [], settings(small)))
    train, _, _ = dataset.build()
    unit, weight = unit_features(dataset.features.weight, "whiten"), 0.5 ** torch.arange(8.0)
    batch = pack(train.segments, torch.arange(len(train.segments)), bucket_lengths(8))
    found = history_mean(unit[batch.item], batch.buckets, weight)[batch.output]
    seen = batch.histories()
    expected = torch.zeros_like(found).index_add_(0, seen.row, weight[seen.distance, None] * unit[seen.item])
    norm = torch.zeros(len(found)).index_add_(0, seen.row, weight[seen.distance] ** 2)
    torch.testing.assert_close(found, expected / norm.sqrt().unsqueeze(1))


def test_there_is_nothing_to_train(ring: Path, small: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="nothing to learn; leave epochs at 0"):
        quick_start.train(build_config("TextKNN", "ring", [], settings(small, epochs=1)))
    with pytest.raises(UserError, match="decay must be"):
        quick_start.train(build_config("TextKNN", "ring", [], settings(small, decay=1.5)))


@pytest.mark.parametrize("model", ["SASRecPacked", "UniSRec"])
def test_masked_histories_come_last(ring: Path, small: dict[str, Any], model: str) -> None:
    own = {
        name: value
        for name, value in small.items()
        if model == "UniSRec" or ("exps" not in name and "adaptor" not in name)
    }
    plain, masked = (
        quick_start.train(build_config(model, "ring", [], {**own, "epochs": 2, "mask_history": masked}))
        for masked in (False, True)
    )
    assert [e["loss"] for e in plain.epochs] == [e["loss"] for e in masked.epochs]  # training is the same
    dataset = TextDataset(build_config("UniSRec", "ring", [], {**small, "mask_history": True}))
    _, _, test = dataset.build()
    pairs = test.pairs
    seen = {
        str(dataset.field2id_token["user_id"][pairs.user[i]]): len(
            set(pairs.items[pairs.start[i] : pairs.target[i]].tolist())
        )
        for i in range(len(pairs))
    }
    fresh = {
        str(dataset.field2id_token["user_id"][pairs.user[i]])
        for i in range(len(pairs))
        if int(pairs.items[pairs.target[i]]) not in pairs.items[pairs.start[i] : pairs.target[i]]
    }
    users, ranks = read_ranks(masked.ranks)
    before = dict(zip(*(a.tolist() for a in read_ranks(plain.ranks)), strict=True))
    for user, rank in zip(users.tolist(), ranks.tolist(), strict=True):
        if user in fresh:
            assert rank <= before[user]
            assert rank <= 24 - seen[user]
        else:
            assert rank > 24 - seen[user]


def test_an_item_held_out_counts_as_the_usual_one(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("TextKNN", "ring", [], settings(small, cold_items=0.2, popularity_weight=1.0))
    train, _, _ = TextDataset(config).build()
    count = train.item_popularity()
    assert train.cold is not None
    assert not count[train.cold].any()
    found = TextKNN(config, train).table[:, -1]
    usual = float(count[count > 0].median())
    torch.testing.assert_close(found[train.cold], torch.full((int(train.cold.sum()),), usual).log1p())
    torch.testing.assert_close(found[~train.cold], count[~train.cold].float().log1p())
