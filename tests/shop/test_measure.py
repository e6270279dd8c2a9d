"""Figures of a shop's report against what can be counted by hand."""

import numpy as np
import polars as pl
import pytest

from recbole_unisrec.serving import Recommendations
from recbole_unisrec.shop import pictures
from recbole_unisrec.shop.measure import (
    Measured,
    best_sellers,
    buys_again,
    held_out,
    in_one_order,
    list_length,
    measure,
    read_sequences,
)
from recbole_unisrec.shop.progress import Again, Progress, Rounds, duration
from recbole_unisrec.shop.report import left_out, verdict


class Fixed:
    """A recommender that always shows the same list, less what was bought before."""

    def __init__(self, ids):
        self.ids = ids

    def recommend(self, histories, k, exclude_seen, candidates=None):
        lists = [[i for i in self.ids if not (exclude_seen and i in h)][:k] for h in histories]
        return [Recommendations(ids, ids, [0.0] * len(ids)) for ids in lists]


SEQUENCES = pl.DataFrame(
    {
        "user": ["u", "v", "w", "x"],
        "items": [["a", "b", "c", "d"], ["b", "a", "d"], ["c", "b", "b", "c"], ["a"]],
    }
)


def test_the_last_purchase_is_kept_out():
    held = held_out(SEQUENCES)
    assert held.users == ["u", "v", "w"]
    assert held.histories == [["a", "b", "c"], ["b", "a"], ["c", "b", "b"]]
    assert held.targets == ["d", "d", "c"]
    assert held_out(SEQUENCES, 2).targets == ["c", "a", "b"]
    assert held_out(SEQUENCES, among={"w", "x"}).users == ["w"]


def test_best_sellers_do_not_know_the_last_two_purchases():
    # a, b of u; b of v; c, b of w
    assert best_sellers(SEQUENCES) == ["b", "a", "c"]


def test_whether_the_last_purchases_are_of_one_order(tmp_path):
    rows = ["u\ta\t1", "u\tb\t2", "u\tc\t2", "v\ta\t1", "v\tb\t2", "w\ta\t5"]
    (tmp_path / "s.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n")
    sequences = read_sequences(tmp_path, "s")
    assert sequences["items"].to_list() == [["a", "b", "c"], ["a", "b"], ["a"]]
    assert in_one_order(sequences) == 0.5


def test_whether_customers_buy_again():
    assert buys_again(SEQUENCES)  # the b of w, one of three
    assert not buys_again(SEQUENCES.filter(pl.col("user") != "w"))


@pytest.mark.parametrize(("again", "hits", "popular"), [(True, 2, 0), (False, 2, 0)])
def test_hits_are_counted(again, hits, popular):
    held = held_out(SEQUENCES)
    found = measure(Fixed(["e", "d", "a", "b", "c"]), held, ["b", "a", "c"], 2, again)
    assert (found.hits, found.best_sellers, found.customers) == (hits, popular, 3)
    assert found.gain == pytest.approx(2 / np.log2(3) / 3)
    # with three places w's c is a best seller where lists may hold it again
    assert measure(Fixed(["e"]), held, ["b", "a", "c"], 3, again).best_sellers == (1 if again else 0)


def test_of_a_hundred():
    # Wilson's interval of 23 of 100 is 15.8% to 32.2%
    assert Measured(100, 10, 23, 5, 0.1, False).per_hundred() == (23, 16, 32, 5)
    assert Measured(30, 10, 0, 0, 0.0, False).per_hundred()[:3] == (0, 0, 11)


@pytest.mark.parametrize(
    ("hits", "sold", "customers", "said"),
    [
        (300, 100, 1000, "beyond chance"),
        (12, 10, 100, "cannot tell it from chance"),
        (10, 10, 100, "does as well"),
        (5, 1, 20, "rough"),
        (0, 0, 200, "Hardly any"),
    ],
)
def test_the_verdict_says_no_more_than_the_figures(hits, sold, customers, said):
    assert said in verdict(Measured(customers, 10, hits, sold, 0.1, False))


def test_the_list_is_short_in_a_small_shop():
    assert [list_length(n) for n in (5, 12, 49, 50, 10**6)] == [3, 3, 9, 10, 10]


def test_what_was_left_out_adds_up():
    steps = [
        {"step": "rows of o.csv", "interactions": 100},
        {"step": "rows without a user (guests) left out", "interactions": 75, "left_out": 25},
        {"step": "rows that repeat another left out", "interactions": 70, "left_out": 5},
        {"step": "read", "interactions": 70, "users": 9, "items": 9},
        {"step": "duplicates removed", "interactions": 70, "users": 9, "items": 9},
        {"step": "k-core pass 1", "interactions": 65, "users": 9, "items": 9},
        {"step": "k-core", "interactions": 60, "users": 8, "items": 9},
    ]
    assert left_out(steps) == [
        {"what": "without a user (guests)", "out": "25", "left": "75"},
        {"what": "that repeat another", "out": "5", "left": "70"},
        {"what": "of customers with fewer than 3 purchases", "out": "10", "left": "60"},
    ]


def test_pictures_need_nothing_from_elsewhere():
    for picture in (
        pictures.hits_picture(14, 10, 18, 5),
        pictures.customers_picture([1, 2, 2, 60]),
        pictures.months_picture(np.array([1.7e9, 1.71e9])),
    ):
        assert picture.startswith("<svg")
        assert 'style="width:100%' in picture.split(">", 1)[0]
        assert "<image" not in picture
    assert pictures.months_picture(np.array([1.0, 2.0])) is None, "numbers that are no dates have no months"


def test_rounds_say_how_long_it_takes(capsys):
    rounds = Rounds(Progress(1), most=20, patience=3)
    rounds("loading")
    rounds("epoch   0  loss   2.1000  valid NDCG@10 0.1000 *    2.0 s")
    rounds("epoch   1  loss   2.0000  valid NDCG@10 0.0900      4.0 s")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "      round 1: quality 0.1000 (best so far), 8 s left, more if it improves"
    assert lines[1] == "      round 2: quality 0.0900, 9 s left, more if it improves"
    again = Again(Progress(1), rounds=3)
    for line in (
        "fitting anew",
        "epoch   0  loss   2.1000    2.0 s",
        "epoch   1  loss   2.0 s",
        "epoch   2  loss   1    4.0 s",
    ):
        again(line)
    said = ["round 1 of 3, 4 s left", "round 2 of 3, 2 s left", "round 3 of 3"]
    assert capsys.readouterr().err.splitlines() == [f"      {line}" for line in said]
    assert duration(59) == "59 s"
