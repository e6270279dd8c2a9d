"""Splits give RecBole's own pairs, whichever function makes them; what follows from a split does not know which did."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.data.held_out import hold_out_items, keep_users
from recbole_unisrec.data.sequences import Pairs, bucket_lengths, pack
from recbole_unisrec.data.split_names import split_function
from recbole_unisrec.data.splits import (
    Sequences,
    Split,
    by_ratio,
    by_time,
    everything,
    leave_one_out,
)
from recbole_unisrec.errors import UserError

Row = tuple[str, list[str], str]


def write_inter(folder: Path, seed: int = 0, n_users: int = 40) -> Path:
    """Users of 1 to 25 items, rows in random order, ties in time among them."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{u}", f"i{rng.integers(30)}", rng.integers(0, 500))
        for u in range(n_users)
        for _ in range(1 + u * 24 // n_users)
    ]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    folder.mkdir(parents=True)
    text = "".join(f"{user}\t{item}\t{time}\n" for user, item, time in rows)
    (folder / f"{folder.name}.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + text)
    return folder


def config_of(model: str, folder: Path, **own: Any) -> Config:
    return Config(model=model, dataset=folder.name, config_dict={
        "data_path": str(folder.parent), "MAX_ITEM_LIST_LENGTH": 6, "train_neg_sample_args": None, "epochs": 1,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "show_progress": False, "use_gpu": False, **own,
    })  # fmt: skip


def rows_of(dataset: Any) -> list[Row]:
    """Users, prefixes and next items of a built part, as tokens."""
    feat = dataset.inter_feat
    users, items = (dataset.field2id_token[f][feat[f].numpy()] for f in (dataset.uid_field, dataset.iid_field))
    lists = dataset.field2id_token[dataset.iid_field][feat[f"{dataset.iid_field}_list"].numpy()]
    lengths = feat[dataset.item_list_length_field].tolist()
    return [(u, list(p[:n]), i) for u, p, n, i in zip(users, lists, lengths, items, strict=True)]


SPLITS: list[dict[str, Any]] = [
    *({"split": {"LS": mode}, "order": "TO"} for mode in ("valid_and_test", "valid_only", "test_only")),
    *(
        {"split": {"RS": ratios}, "order": order, "group_by": group}
        for ratios, order, group in itertools.product(
            ([0.8, 0.1, 0.1], [6, 3, 1], [0.5, 0.0, 0.5]), ("TO", "RO"), ("user", None, "none")
        )
    ),
    {"split": {"TS": [0.8, 0.1, 0.1]}, "order": "TO"},
]


@pytest.mark.parametrize("eval_args", SPLITS, ids=str)
@pytest.mark.parametrize("extra", [{}, {"user_inter_num_interval": "[4,inf)", "item_inter_num_interval": "[3,20]"}])
def test_users_items_pairs_and_their_order_are_recboles(
    tmp_path: Path, eval_args: dict[str, Any], extra: dict[str, Any]
) -> None:
    folder = write_inter(tmp_path / "x")
    theirs, ours = (
        kind(config_of(model, folder, eval_args=dict(eval_args), **extra))
        for kind, model in ((SequentialDataset, "SASRec"), (SequenceDataset, "SASRecPacked"))
    )
    torch.manual_seed(1)
    expected = Dataset.build(theirs)  # SequentialDataset's own refuses order RO
    torch.manual_seed(1)
    found = ours.build()
    assert list(ours.field2id_token["item_id"]) == list(theirs.field2id_token["item_id"])
    assert list(ours.field2id_token["user_id"]) == list(theirs.field2id_token["user_id"])
    for mine, other in zip(found, expected, strict=True):
        assert rows_of(mine) == rows_of(other)


lists = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=14), min_size=1, max_size=8)
FUNCTIONS: dict[str, Callable[[Sequences, int], Split]] = {
    "LS": leave_one_out,
    "RS": lambda s, w: by_ratio(s, w, [0.6, 0.2, 0.2]),
    "RO": lambda s, w: by_ratio(s, w, [0.6, 0.2, 0.2], "RO", None),
    "TIME": lambda s, w: by_time(s, w, 4, 7),
    "ALL": everything,
}


def sequences_of(times: list[list[int]]) -> Sequences:
    """Users with items at these times; items are numbered through."""
    users = np.repeat(np.arange(1, len(times) + 1), [len(t) for t in times])
    return Sequences.of(users, np.arange(1, len(users) + 1), np.concatenate(times).astype(float))


def pairs_of(pairs: Pairs) -> list[tuple[int, tuple[int, ...], int]]:
    bounds = zip(pairs.user.tolist(), pairs.start.tolist(), pairs.target.tolist(), strict=True)
    return [
        (user, tuple(pairs.items[start:target].tolist()), int(pairs.items[target])) for user, start, target in bounds
    ]


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(1, 5), st.sampled_from(list(FUNCTIONS)), st.booleans())
def test_each_pair_is_in_one_part_and_training_reads_each_of_its_pairs_once(
    times: list[list[int]], window: int, name: str, exact: bool
) -> None:
    sequences = sequences_of(times)
    split = FUNCTIONS[name](sequences, window)
    assert sorted(p for part in split.parts for p in part.target.tolist()) == sequences.targets.tolist()
    segments = split.segments(window, exact)
    assert int(segments.n_pairs.sum()) == len(split.train)
    if not len(split.train):
        return
    batch = pack(segments, torch.arange(len(segments)), bucket_lengths(window))
    assert sorted(batch.target.tolist()) == sorted(split.items[split.train.target].tolist())
    if exact:  # each prediction sees just what its prefix holds
        seen = batch.histories()
        found = {(int(batch.target[row]), int(item)) for row, item in zip(seen.row, seen.item, strict=True)}
        assert found == {(target, item) for _, prefix, target in pairs_of(split.train) for item in prefix}


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(1, 5), st.sampled_from(list(FUNCTIONS)), st.sets(st.integers(1, 60)))
def test_held_out_items_leave_no_trace_in_training(
    times: list[list[int]], window: int, name: str, cold: set[int]
) -> None:
    sequences = sequences_of(times)
    split = FUNCTIONS[name](sequences, window)
    mask = torch.zeros(len(sequences.items) + 1, dtype=torch.bool)
    mask[[i for i in cold if i < len(mask)]] = True
    held = hold_out_items(split, mask, window)
    expected = []
    for user, target in zip(split.train.user.tolist(), split.train.target.tolist(), strict=True):
        whole = split.items[int(split.begin[target]) : target]
        warm = tuple(whole[~mask[whole]].tolist()[-window:])
        if warm and not mask[split.items[target]]:
            expected.append((user, warm, int(split.items[target])))
    assert pairs_of(held.train) == expected
    assert int(held.segments(window, exact=True).n_pairs.sum()) == len(expected)
    assert pairs_of(held.test) == pairs_of(split.test)
    assert pairs_of(held.valid) == [p for p in pairs_of(split.valid) if not mask[p[2]]]
    assert not held.popularity(len(mask))[mask].any()


def test_users_that_are_not_learned_from_stay_in_test() -> None:
    rng = np.random.default_rng(1)
    split = leave_one_out(sequences_of([rng.integers(0, 99, n).tolist() for n in rng.integers(2, 12, 40)]), 4)
    kept = torch.zeros(41, dtype=torch.bool)
    kept[[2, 3, 30]] = True
    few = keep_users(split, kept)
    assert few.train_user.tolist() == [2, 3, 30]
    assert pairs_of(few.train) == [p for p in pairs_of(split.train) if p[0] in (2, 3, 30)]
    assert int(few.segments(4, exact=True).n_pairs.sum()) == len(few.train)
    assert (few.valid, few.test) == (split.valid, split.test)


def test_by_time_trains_before_validates_between_and_tests_after() -> None:
    sequences = sequences_of([[1, 3, 5, 8], [6, 7], [9], [2, 4]])
    split = by_time(sequences, 10, 4, 7)
    time_of = dict(zip(sequences.items.tolist(), sequences.time.tolist(), strict=True))
    for part, bounds in zip(split.parts, ((0, 4), (4, 7), (7, 99)), strict=True):
        assert all(bounds[0] <= time_of[target] < bounds[1] for _, _, target in pairs_of(part))
    assert pairs_of(split.test) == [(1, (1, 2, 3), 4), (2, (5,), 6)]
    assert pairs_of(split.valid) == [(1, (1, 2), 3), (4, (8,), 9)]
    assert pairs_of(split.train) == [(1, (1,), 2)]
    assert split.popularity(10).tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_points_in_time_are_numbers_dates_or_shares() -> None:
    days = np.datetime64("2011-01-01", "s").astype(int) + 86_400 * np.arange(10)
    sequences = sequences_of([days.tolist()])
    for points in (
        ["2011-01-08", "2011-01-10"],
        ["2011-01-08T00:00:00Z", int(days[9])],
        [float(days[7]), "100%"],
        ["75%", "95%"],
    ):
        split = split_function({"split": {"TIME": points}})(sequences, 5)
        assert [len(part) for part in split.parts] == [6, 2, 1], points


@pytest.mark.parametrize(
    ("eval_args", "message"),
    [
        ({"split": {"LS": "both"}}, "must be one of valid_and_test, valid_only, test_only"),
        ({"split": {"LS": "valid_and_test"}, "order": "RO"}, "add order: TO"),
        ({"split": {"RS": [0.8, 0.2]}}, "takes three shares"),
        ({"split": {"RS": [0, 0, 0]}}, "takes three shares"),
        ({"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "item"}, "group_by must be user or none"),
        ({"split": {"RS": [0.8, 0.1, 0.1]}, "order": "XO"}, "order must be TO"),
        ({"split": {"TIME": [3]}}, "takes two points"),
        ({"split": {"TIME": ["soon", 5]}}, "'soon' is no point in time"),
        ({"split": {"TIME": [5, 3]}}, "validates before it tests"),
        ({"split": {"LO": "x"}}, "has no 'LO'"),
        ({"split": None}, "must name one split"),
    ],
)
def test_what_no_split_can_be_is_said(eval_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_function(eval_args)(sequences_of([[1, 2, 3]]), 5)
