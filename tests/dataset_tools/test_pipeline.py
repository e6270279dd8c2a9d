"""The pipeline against slow, obvious implementations of the same rules."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools import cleaning, ids, interactions, kcore, pipeline
from dataset_tools.common import UserError

ROWS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("ABCDEF"), st.sampled_from([1.0, 5.0]), st.integers(0, 3)),
    max_size=60,
)


def slow_k_core(rows, user_k, item_k):
    """Remove one offender after the other until there is none."""
    rows = list(rows)
    while True:
        users = Counter(row[0] for row in rows)
        items = Counter(row[1] for row in rows)
        for row in rows:
            if users[row[0]] < user_k or items[row[1]] < item_k:
                rows.remove(row)
                break
        else:
            return rows


def slow_pipeline(rows, known, user_k, item_k):
    """Return {user: [(item, time)]} in order, by plain lists."""
    unique = []
    for row in rows:
        if row not in unique:
            unique.append(row)
    kept = slow_k_core([row for row in unique if row[1] in known], user_k, item_k)
    sequences = {}
    for row in kept:
        sequences.setdefault(row[0], []).append(row)
    return {user: [(r[1], r[3]) for r in sorted(own, key=lambda r: r[3])] for user, own in sequences.items()}


def make_data(rows):
    user_ids, item_ids = ids.IdTable(), ids.IdTable()
    return interactions.Interactions(
        users=user_ids.encode(pl.Series([r[0] for r in rows], dtype=pl.String)),
        items=item_ids.encode(pl.Series([r[1] for r in rows], dtype=pl.String)),
        times=np.array([r[3] for r in rows], dtype=np.int64),
        ratings=np.array([r[2] for r in rows], dtype=np.float32),
        user_ids=user_ids,
        item_ids=item_ids,
    )


def filter_both(data, known, user_k, item_k):
    pipeline.keep_items(data, known)
    pipeline.keep_k_core(data, user_k, item_k)


def read_back(dataset):
    users, items = dataset.user_ids.to_list(), dataset.item_ids.to_list()
    return {
        user: [
            (items[dataset.items[row]], int(dataset.times[row]))
            for row in range(dataset.offsets[number], dataset.offsets[number + 1])
        ]
        for number, user in enumerate(users)
    }


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, known=st.sets(st.sampled_from("ABCDEF")), user_k=st.integers(0, 4), item_k=st.integers(0, 4))
def test_whole_pipeline_is_the_slow_one(rows, known, user_k, item_k):
    expected = slow_pipeline(rows, known, user_k, item_k)
    data = make_data(rows)
    interactions.drop_duplicates(data)
    mask = np.array([name in known for name in data.item_ids.decode(np.arange(len(data.item_ids))).to_list()], bool)
    if not expected:
        with pytest.raises(UserError):
            filter_both(data, mask, user_k, item_k)
        return
    filter_both(data, mask, user_k, item_k)
    found = read_back(pipeline.make_sequences(data))
    assert found == expected
    assert list(found) == list(expected), "users are numbered by their first surviving row"


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, k=st.integers(1, 4))
def test_items_are_numbered_as_they_occur_in_the_sequences(rows, k):
    data = make_data(rows)
    data.keep(kcore.k_core(data.users, data.items, k, k))
    dataset = pipeline.make_sequences(data)
    first = list(dict.fromkeys(dataset.items.tolist()))
    assert first == list(range(len(dataset.item_ids)))


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_duplicates_are_those_of_a_set(rows):
    data = make_data(rows)
    mask = interactions.duplicates(data.users, data.items, data.times, data.ratings)
    seen, expected = set(), []
    for row in rows:
        expected.append(row in seen)
        seen.add(row)
    assert mask.tolist() == expected


def test_duplicates_survive_colliding_hashes(monkeypatch):
    # with every slot marked as suspect, only the full comparison can tell rows apart
    rng = np.random.default_rng(1)
    columns = rng.integers(0, 12, (3, 5000))
    monkeypatch.setattr(interactions, "_bits", lambda values: np.zeros(len(values), dtype=np.uint64))
    mask = interactions.duplicates(columns[0].astype(np.uint32), columns[1].astype(np.uint32), columns[2], None)
    seen, expected = set(), []
    for row in columns.T.tolist():
        expected.append(tuple(row) in seen)
        seen.add(tuple(row))
    assert mask.tolist() == expected


def test_large_k_core_is_stable_and_maximal():
    rng = np.random.default_rng(0)
    users = (2000 * rng.random(20_000) ** 3).astype(np.uint32)
    items = (900 * rng.random(20_000) ** 2).astype(np.uint32)
    rows = kcore.k_core(users, items, 5, 7)
    assert 0 < len(rows) < 20_000
    assert min(Counter(users[rows].tolist()).values()) >= 5
    assert min(Counter(items[rows].tolist()).values()) >= 7
    # the order of the rows does not matter
    shuffle = rng.permutation(20_000)
    again = kcore.k_core(users[shuffle], items[shuffle], 5, 7)
    assert sorted(shuffle[again].tolist()) == rows.tolist()


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_largest_k(rows):
    data = make_data(rows)
    best = max((k for k in range(1, 61) if slow_k_core(rows, k, k)), default=0)
    assert kcore.largest_k(data.users, data.items) == best


def test_empty_result_names_the_pass_and_the_largest_k():
    data = make_data([("u", item, 1.0, 0) for item in "AB"] + [("v", item, 1.0, 0) for item in "AB"])
    with pytest.raises(UserError, match=r"empty after pass 1 .*4 interactions.*largest k that leaves something is 2"):
        pipeline.keep_k_core(data, 5, 5)


def test_counts_of_each_step():
    rows = [("u", item, 1.0, 0) for item in "ABC"] + [("v", item, 1.0, 0) for item in "AB"] + [("u", "A", 1.0, 0)]
    data = make_data(rows)
    data.count("read")
    assert interactions.drop_duplicates(data) == 1
    pipeline.keep_k_core(data, 2, 2)
    counts = [(s["step"], s["interactions"], s["users"], s["items"]) for s in data.steps]
    assert counts == [
        ("read", 6, 2, 3),
        ("duplicates removed", 5, 2, 3),
        ("k-core pass 1", 4, 2, 2),
        ("k-core", 4, 2, 2),
    ]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Plain title", "Plain title."),
        ("Ends so....", "Ends so."),
        ("...", "."),
        ("", "."),
        ("a. b.", "a. b."),
        ("3&quot; &amp; 4&#39;", "3 & 4'."),
        ('Say "hi"\r\nnow', "Say hinow."),
        ("tab\there", "tab here."),
        ("line\u2028end\x85here", "line end here."),
        (["Arts", "Crafts &amp; Sewing"], "Arts Crafts & Sewing."),
        ([["Toys", "Games"], ["Toys", "Dolls"]], "Toys Games Toys Dolls."),
        ([], "."),
        (12.5, "12.5."),
        ("x" * 1998, "x" * 1998 + "."),
        ("x" * 1999, ""),
        ("x" * 1999 + ".", ""),
        ("&amp;" * 1998, "&" * 1998 + "."),
    ],
)
def test_clean_text(raw, clean):
    assert cleaning.clean_text(raw) == clean


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_clean_text_is_one_line_and_one_column(raw):
    clean = cleaning.clean_text(raw)
    assert "\t" not in clean
    assert '"' not in clean
    assert len(clean.splitlines()) == 1
    assert clean.endswith(".")
    assert not clean.endswith("..")


def test_join_fields_leaves_out_what_is_absent():
    assert cleaning.join_fields(["Title", None, "Brand"]) == "Title. Brand. "
    assert cleaning.is_empty_text(cleaning.join_fields(["", []]))
    assert not cleaning.is_empty_text("é.")


@pytest.mark.parametrize("bad", ["a\tb", "a\nb", "", " ", "a\ufffdb"])
def test_ids_that_a_file_cannot_hold(bad):
    with pytest.raises(UserError, match="item"):
        ids.check_ids(pl.Series(["fine", bad]), "item")
    ids.check_ids(pl.Series(["BANK CHARGES", "ü-1"]), "item")


def test_whole_times():
    assert interactions.whole_times(np.array([1.0, 2.0])).dtype == np.int64
    assert interactions.whole_times(np.array([1.0, 2.5])).dtype == np.float64


def test_shuffled_ties_keep_everything_else():
    """Equal times change places within a user, by the seed; rows with their own time stay where they are."""
    users = ["b"] * 12 + ["a"] * 6
    items = [f"i{k}" for k in [*range(12), 3, 1, 4, 0, 5, 9]]
    times = np.array([1] * 10 + [0, 2] + [5, 4, 3, 2, 1, 0])

    def sequences(seed):
        collector = interactions.Collector()
        collector.append(pl.Series(users), pl.Series(items), times, np.ones(len(users)))
        data = pipeline.make_sequences(collector.interactions(Path("x")), seed)
        rows = data.item_ids.gather(data.items).to_list()
        assert data.user_ids.to_list() == ["b", "a"]
        assert data.times.tolist() == [0, *[1] * 10, 2, 0, 1, 2, 3, 4, 5]
        return rows[:12], rows[12:]

    kept, shuffled = sequences(None), sequences(7)
    assert kept[0] == ["i10", *(f"i{k}" for k in range(10)), "i11"]
    assert shuffled[0] != kept[0]
    assert sorted(shuffled[0][1:-1]) == sorted(kept[0][1:-1])
    assert (shuffled[0][0], shuffled[0][-1], shuffled[1]) == ("i10", "i11", kept[1])
    assert sequences(7) == shuffled != sequences(8)
