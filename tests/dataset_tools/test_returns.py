"""Returns cancel what was bought, and files that list the newest first: in files of shop systems, and of anybody."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools import custom
from dataset_tools.common import run_cli
from dataset_tools.shops.returns import newest_first, oldest_first, sent_back

COLUMNS = {"user": pl.String, "item": pl.String, "time": pl.Float64, "quantity": pl.Float64}


def build(capsys, folder, *more):
    files = ["--interactions", folder / "orders.csv", "--name", "shop", "--out", folder / "out", "--overwrite"]
    arguments = [*files, "--user_k", 1, "--item_k", 1, *more]
    status = run_cli(custom.main, [str(a) for a in arguments])
    err = capsys.readouterr().err
    assert status == 0, err
    lines = (folder / "out" / "shop" / "shop.inter").read_text(encoding="utf-8").splitlines()[1:]
    record = json.loads((folder / "out" / "shop" / "shop.json").read_text(encoding="utf-8"))
    return [line.split("\t")[1] for line in lines], {k: n for k, n in record["left_out"].items() if n}, err


def test_a_full_return_cancels_the_line_and_a_partial_one_does_not(tmp_path, capsys):
    rows = [
        "order_id,user_id,item_id,timestamp,quantity",
        "1,u,whole,10,2",
        "1,u,part,10,2",
        "1,u,twice,10,1",
        "2,u,twice,20,1",
        "2,u,bits,20,3",
        "C3,u,whole,30,-2",
        "C3,u,part,30,-1",
        "C3,u,twice,30,-1",
        "C3,u,bits,30,-1",
        "C4,u,bits,40,-2",
        "C4,u,never,40,-1",
        "5,u,after,50,1",
        "C6,u,after,45,-1",
        "C6,v,part,60,-2",
    ]
    (tmp_path / "orders.csv").write_text("\n".join(rows) + "\n")
    items, left, err = build(capsys, tmp_path, "--drop_returns")
    assert items == ["part", "twice", "after"]
    assert left == {"with returns": 8, "of purchases that were sent back later": 3}
    assert "3 returns are of something that was bought before these orders begin" in err
    # kept, each row counts
    assert len(build(capsys, tmp_path, "--keep_returns")[0]) == 14


def test_returns_without_times_go_by_their_place(tmp_path, capsys):
    rows = ["user_id,item_id,quantity", "u,a,1", "u,b,1", "u,a,-1", "u,a,1", "u,c,-1", "u,c,1"]
    (tmp_path / "orders.csv").write_text("\n".join(rows) + "\n")
    items, left, _ = build(capsys, tmp_path, "--drop_returns", "--no_time")
    assert items == ["b", "a", "c"]
    assert left == {"with returns": 2, "of purchases that were sent back later": 1}


@pytest.mark.parametrize(
    ("preset", "rows", "kept"),
    [
        (
            "magento",  # cancelled and refunded pieces add up
            ["increment_id,customer_email,created_at,status,sku,name,qty_ordered,qty_refunded,qty_canceled"]
            + [f"1,u@x.example,2025-03-27 11:00:00,complete,{s},N,3,{r},{c}" for s, r, c in ("A21", "B30", "C03", "D11")],
            ["D"],
        ),
        (
            "prestashop",  # returned pieces are among those refunded
            ["id_order;id_customer;date_add;product_reference;product_quantity;product_quantity_refunded;product_quantity_return"]
            + [f"1;7;2025-03-27 11:00:00;{s};2;{r};{t}" for s, r, t in ("A00", "B21", "C11")],
            ["A", "C"],
        ),
    ],
)  # fmt: skip
def test_columns_of_refunds(tmp_path, capsys, preset, rows, kept):
    (tmp_path / "orders.csv").write_text("\n".join(rows) + "\n")
    items, left, _ = build(capsys, tmp_path, "--preset", preset)
    assert items == kept
    assert left == {"with returns": len(rows) - 1 - len(kept)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 6), st.sampled_from([1, 2, -1, -2]))
    )
)
def test_sent_back_as_piece_by_piece(rows):
    """Against lists of single pieces, from which a return takes the latest."""
    bought = [row for row in rows if row[3] > 0]
    pieces = [(*row[:3], n) for n, row in enumerate(bought) for _ in range(row[3])]
    unknown = 0
    for user, item, time, quantity in sorted((row for row in rows if row[3] < 0), key=lambda row: row[2]):
        before = [p for p in range(len(bought)) if bought[p][:2] == (user, item) and bought[p][2] <= time]
        unknown += not before
        for _ in range(-quantity):
            own = [p for p in pieces if p[:2] == (user, item) and p[2] <= time]
            if own:
                pieces.remove(max(own, key=lambda p: (p[2], p[3])))
    frames = [pl.DataFrame([r for r in rows if (r[3] > 0) == b], COLUMNS, orient="row") for b in (True, False)]
    gone, found = sent_back(*frames)
    assert gone.tolist() == [all(p[3] != n for p in pieces) for n in range(len(bought))]
    assert found == unknown


def test_newest_first_by_order(tmp_path, capsys):
    """Dates without an hour: of two orders of a day the lower one was first, and the lines of an order stay."""
    rows = [
        "order_id,user_id,item_id,date",
        "5,u,e1,2025-03-03",
        "4,u,d1,2025-03-02",
        "4,u,d2,2025-03-02",
        "3,u,c1,2025-03-02",
        "2,v,b1,2025-03-01",
        "1,u,a1,2025-03-01",
    ]
    (tmp_path / "orders.csv").write_text("\n".join(rows) + "\n")
    items, _, err = build(capsys, tmp_path)
    assert [item for item in items if item != "b1"] == ["a1", "c1", "d1", "d2", "e1"]
    assert "lists the newest orders first; of orders with equal times the lower one counts as the earlier" in err
    (tmp_path / "orders.csv").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
    items, _, err = build(capsys, tmp_path)
    assert [item for item in items if item != "b1"] == ["a1", "c1", "d2", "d1", "e1"]
    assert "newest" not in err


def test_which_way_a_file_is_sorted():
    rng = np.random.default_rng(0)
    days = np.sort(rng.integers(100, size=1000))
    assert newest_first(days[::-1])
    assert not newest_first(days)
    assert not newest_first(rng.permutation(days))
    assert not newest_first(np.array([]))
    assert oldest_first(np.array([1, 1, 4])).tolist() == [2, 0, 1]
