"""Exports of shop systems, tables of anybody, lists of items in a cell, returns, guests, and ids that do not meet."""

import json

import polars as pl
import pytest

from dataset_tools import custom
from dataset_tools.common import run_cli
from dataset_tools.shops.layouts import ANY, PRESETS, recognise
from dataset_tools.shops.listcells import ListForm, guess_form, read_cell
from dataset_tools.shops.products import canonical

USERS, ITEMS = 6, 8


def run(capsys, *arguments):
    status = run_cli(custom.main, [str(a) for a in arguments])
    return status, capsys.readouterr().err


def build(capsys, folder, *more, orders="orders.csv", products="products.csv", k=1):
    limits = ["--user_k", k, "--item_k", k, "--overwrite"]
    files = ["--interactions", folder / orders, *(["--items", folder / products] if products else [])]
    return run(capsys, *files, "--name", "shop", "--out", folder / "out", *limits, *more)


def rows(folder):
    lines = (folder / "out" / "shop" / "shop.inter").read_text(encoding="utf-8").splitlines()[1:]
    return [tuple(line.split("\t")) for line in lines]


def texts(folder):
    lines = (folder / "out" / "shop" / "shop.item").read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("\t") for line in lines)


def left_out(folder):
    record = json.loads((folder / "out" / "shop" / "shop.json").read_text(encoding="utf-8"))
    return {reason: count for reason, count in record["left_out"].items() if count}


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


# shop systems: user, item, seconds since 1970 of what was bought in each of these made-up exports

BOUGHT = [
    ("ann@x.example", "A1", "1743073200"),
    ("ann@x.example", "B2", "1743073200"),
    ("bob@x.example", "A1", "1743422400"),
]
LEFT = {"of cancelled orders": 2, "with returns": 1, "without a user (guests)": 1}
EXPORTS = {
    "shopify": (
        [
            "Name,Email,Financial Status,Paid at,Created at,Lineitem quantity,Lineitem name,Lineitem sku,Cancelled at",
            "#1001,Ann@x.example,paid,2025-03-27 12:01:00 +0100,2025-03-27 12:00:00 +0100,1,Red lamp,A1,",
            "#1001,,,,,2,Blue lamp - L,B2,",
            "#1002,bob@x.example,paid,,2025-03-31 14:00:00 +0200,1,Red lamp,A1,",
            "#1002,,,,,0,Blue lamp - L,B2,",
            "#1003,bob@x.example,refunded,,2025-04-01 14:00:00 +0200,1,Red lamp,A1,",
            "#1004,bob@x.example,paid,,2025-04-02 14:00:00 +0200,1,Red lamp,A1,2025-04-03 10:00:00 +0200",
            "#1005,,paid,,2025-04-02 15:00:00 +0200,1,Red lamp,A1,",
        ],
        [
            "Handle,Title,Body (HTML),Vendor,Type,Option1 Value,Variant SKU,Image Src",
            "red-lamp,Red lamp,<p>Red</p>,Lux,Lamps,,A1,https://x.example/1.png",
            "red-lamp,,,,,,,https://x.example/2.png",
            "blue-lamp,Blue lamp,<p>Blue</p>,Lux,Lamps,S,B1,",
            "blue-lamp,,,,,L,B2,",
        ],
        {"A1": "Red lamp. Lamps. Lux. ", "B2": "Blue lamp. Lamps. Lux. "},
    ),
    "woocommerce": (
        [
            "order_number,order_date,status,customer_id,billing_email,line_items",
            "1,2025-03-27 11:00:00,completed,5,ann@x.example,id:1|name:Red lamp|product_id:7|sku:A1|quantity:1|total:9.00;"
            "id:2|name:Blue: lamp|product_id:8|sku:B2|quantity:2|total:8.00",
            "2,2025-03-31 12:00:00,wc-processing,0,bob@x.example,"
            "id:3|name:Red lamp|product_id:7|sku:A1|quantity:1;id:4|name:Blue|product_id:8|sku:B2|quantity:0",
            "3,2025-04-01 12:00:00,cancelled,0,bob@x.example,id:3|name:Red lamp|product_id:7|sku:A1|quantity:1",
            "4,2025-04-01 12:00:00,wc-refunded,0,bob@x.example,id:3|name:Red lamp|product_id:7|sku:A1|quantity:1",
            "5,2025-04-01 12:00:00,completed,0,,id:3|name:Red lamp|product_id:7|sku:A1|quantity:1",
        ],
        ["ID,Type,SKU,Name,Published,Categories", '7,simple,A1,Red lamp,1,"Lamps, Home > Lamps"', "8,simple,B2,Blue lamp,1,Lamps"],
        {"A1": "Red lamp. Lamps, Home > Lamps. ", "B2": "Blue lamp. Lamps. "},
    ),
    "magento": (
        [
            "increment_id,customer_email,created_at,status,sku,name,qty_ordered,qty_refunded",
            "100,ann@x.example,2025-03-27 11:00:00,complete,A1,Red lamp,1.0000,0.0000",
            "100,ann@x.example,2025-03-27 11:00:00,complete,B2,Blue lamp,2.0000,1.0000",
            "101,bob@x.example,2025-03-31 12:00:00,processing,A1,Red lamp,1.0000,0.0000",
            "101,bob@x.example,2025-03-31 12:00:00,processing,B2,Blue lamp,1.0000,1.0000",
            "102,bob@x.example,2025-04-01 12:00:00,canceled,A1,Red lamp,1.0000,0.0000",
            "103,bob@x.example,2025-04-01 12:00:00,closed,A1,Red lamp,1.0000,1.0000",
            "104,,2025-04-01 12:00:00,complete,A1,Red lamp,1.0000,0.0000",
        ],
        [
            "sku,store_view_code,product_type,categories,name,description",
            "A1,,simple,Default Category/Lamps,Red lamp,<p>Red</p>",
            "A1,de,simple,,Rote Lampe,",
            "B2,,simple,Default Category/Lamps,Blue lamp,",
        ],
        {"A1": "Red lamp. Default Category/Lamps. ", "B2": "Blue lamp. Default Category/Lamps. "},
    ),
    "prestashop": (
        [
            "id_order;id_customer;date_add;current_state;product_reference;product_name;product_quantity;"
            "product_quantity_refunded",
            "1;ann@x.example;2025-03-27 11:00:00;5;A1;Red lamp;1;0",
            "1;ann@x.example;2025-03-27 11:00:00;5;B2;Blue lamp;1;0",
            "2;bob@x.example;2025-03-31 12:00:00;4;A1;Red lamp;1;0",
            "2;bob@x.example;2025-03-31 12:00:00;4;B2;Blue lamp;1;1",
            "3;bob@x.example;2025-04-01 12:00:00;6;A1;Red lamp;1;0",
            "4;bob@x.example;2025-04-01 12:00:00;7;A1;Red lamp;1;0",
            "5;0;2025-04-01 12:00:00;5;A1;Red lamp;1;0",
        ],
        ["Product ID;Image;Name;Reference;Category;Price (tax excl.)", "1;;Red lamp;A1;Lamps;9,50", "2;;Blue lamp;B2;Lamps;8,00"],
        {"A1": "Red lamp. Lamps. ", "B2": "Blue lamp. Lamps. "},
    ),
    "bigcommerce": (
        [
            "Order ID,Customer ID,Customer Email,Order Date,Order Time,Order Status,Product Details",
            '100,1,ann@x.example,27/03/2025,11:00:00,Completed,"Product ID: 7, Product Qty: 1, Product SKU: A1, '
            "Product Name: Red lamp, Product Weight: 1.0000|Product ID: 8, Product Qty: 2, Product SKU: B2, "
            'Product Name: Blue, the lamp, Product Weight: 1.0000"',
            '101,2,bob@x.example,31/03/2025,12:00:00,Shipped,"Product ID: 7, Product Qty: 1, Product SKU: A1, Product Name: '
            'Red lamp|Product ID: 8, Product Qty: 0, Product SKU: B2, Product Name: Blue"',
            '102,2,bob@x.example,01/04/2025,12:00:00,Cancelled,"Product ID: 7, Product Qty: 1, Product SKU: A1"',
            '103,2,bob@x.example,01/04/2025,12:00:00,Refunded,"Product ID: 7, Product Qty: 1, Product SKU: A1"',
            '104,0,,01/04/2025,12:00:00,Completed,"Product ID: 7, Product Qty: 1, Product SKU: A1"',
        ],
        [
            "Item Type,Product ID,Product Name,Product Code/SKU,Brand Name,Category",
            "Product,7,Red lamp,A1,Lux,Lamps",
            "Product,8,Blue lamp,B2,Lux,Lamps",
        ],
        {"A1": "Red lamp. Lamps. Lux. ", "B2": "Blue lamp. Lamps. Lux. "},
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("system", list(PRESETS))
def test_the_export_of_a_shop_system(tmp_path, capsys, system, told):
    orders, products, expected = EXPORTS[system]
    write(tmp_path, "orders.csv", *orders)
    write(tmp_path, "products.csv", *products)
    status, err = build(capsys, tmp_path, *(["--preset", system] if told else []))
    assert status == 0, err
    assert (f"those of {system}'s order export" in err) != told
    assert rows(tmp_path) == BOUGHT
    assert texts(tmp_path) == expected
    assert left_out(tmp_path) == LEFT
    # and with them, on request
    status, _ = build(capsys, tmp_path, "--preset", system, "--keep_returns")
    assert status == 0
    assert left_out(tmp_path) == {"without a user (guests)": 1}
    record = json.loads((tmp_path / "out" / "shop" / "shop.json").read_text(encoding="utf-8"))
    assert next(step for step in record["steps"] if step["step"] == "read")["interactions"] == 6


def test_each_system_is_told_from_the_others():
    for system, (orders, _, _) in EXPORTS.items():
        assert recognise(orders[0].replace(";", ",").split(",")) == system
    assert recognise(["user_id", "item_id", "timestamp", "Quantity"]) is None


@pytest.mark.parametrize("system", list(PRESETS))
def test_an_export_without_line_items_is_answered_with_where_they_are(tmp_path, capsys, system):
    write(tmp_path, "orders.csv", "ID,Purchase Date,Email,Customer Email,id_customer,Total", "1,2025-01-01,a@b,a@b,1,9")
    write(tmp_path, "products.csv", "sku,name", "A1,Red")
    status, err = build(capsys, tmp_path, "--preset", system)
    assert status == 1
    assert "no column that looks like the item" in err
    assert PRESETS[system].advice in err


def test_names_in_the_tables_are_spelled_once():
    for layout in (*PRESETS.values(), ANY):
        for names in (layout.user, layout.item, layout.time, layout.order, layout.left_out):
            assert len(set(names)) == len(names)
        assert all(word == word.lower() for word in layout.left_out)


# lists of items


@pytest.mark.parametrize(
    ("cells", "form", "found"),
    [
        (["A1;B2", "B2"], ListForm("plain", ";"), [("A1", 1), ("B2", 1)]),
        (["A1, B2", "A1"], ListForm("plain", ","), [("A1", 1), ("B2", 1)]),
        (["A1 B2"], ListForm("plain", " "), [("A1", 1), ("B2", 1)]),
        (['["A1", "B2"]'], ListForm("json", "id"), [("A1", 1), ("B2", 1)]),
        (['[{"sku": "A1", "qty": 2}, {"sku": "B2"}]'], ListForm("json", "sku"), [("A1", 2), ("B2", 1)]),
        (
            ['[{"id": 9, "sku": "A1"}, {"id": 8, "sku": "B2", "quantity": -1}]'],
            ListForm("json", "sku"),
            [("A1", 1), ("B2", -1)],
        ),
        (["sku:A1|quantity:2;sku:B2|quantity:1"], ListForm("fields", "sku"), [("A1", 2), ("B2", 1)]),
        (["name:A1|sku:|qty:1;name:B2|sku:|qty:1"], ListForm("fields", "name"), [("A1", 1), ("B2", 1)]),
        (["2× A1, 1× B2"], ListForm("counted", ""), [("A1", 2), ("B2", 1)]),
        (["2 x A1; 1 x B2"], ListForm("counted", ""), None),
    ],
)
def test_forms_of_lists(cells, form, found):
    assert guess_form(cells, {"A1", "B2"}) == form
    if found:
        assert read_cell(cells[0], form) == found


def test_one_id_is_no_list():
    assert guess_form(["A1", "B2, large", "C3"], {"A1", "B2, large", "C3"}) is None
    assert guess_form(["A;1", "B;2"], set()) is None
    assert guess_form(["A;1", "B;2"], set(), always=True) == ListForm("plain", ";")


def test_a_row_of_columns_is_a_list_too(tmp_path, capsys):
    write(
        tmp_path, "orders.csv", "order_id,order_date,customer_email,status,line_item_1,line_item_2",
        "1,2025-03-27 11:00,ann@x.example,completed,name:Red|product_id:7|sku:A1|quantity:1,name:Blue|product_id:8|sku:B2|quantity:1",
        "2,2025-03-28 11:00,bob@x.example,completed,name:Red|product_id:7|sku:A1|quantity:1,",
    )  # fmt: skip
    write(tmp_path, "products.csv", "ID,SKU,Name", "7,A1,Red", "8,B2,Blue")
    assert build(capsys, tmp_path)[0] == 0
    assert [row[:2] for row in rows(tmp_path)] == [
        ("ann@x.example", "A1"),
        ("ann@x.example", "B2"),
        ("bob@x.example", "A1"),
    ]


def test_a_list_of_ids_in_anybodys_table(tmp_path, capsys):
    write(tmp_path, "orders.csv", "customer,items,date", 'u,"1, 2,3",2025-01-01', "v,2,2025-01-02")
    write(tmp_path, "products.csv", "id,title", "1,One", "2,Two", "3,Three")
    status, err = build(capsys, tmp_path)
    assert status == 0
    assert "ids with ',' between (--list_separator says otherwise)" in err
    assert [row[:2] for row in rows(tmp_path)] == [("u", "1"), ("u", "2"), ("u", "3"), ("v", "2")]
    status, err = build(capsys, tmp_path, "--list_separator", "none")
    assert [row[:2] for row in rows(tmp_path)] == [("v", "2")]


# guesses and flags


def test_columns_are_guessed_said_and_overruled(tmp_path, capsys):
    write(
        tmp_path,
        "orders.csv",
        "Kundennummer;E-Mail;Artikelnummer;EAN;Bestelldatum",
        "7;a@b;X;1;31.12.2024 10:00",
        "8;c@d;Y;2;1.1.2025 9:00",
    )
    write(tmp_path, "products.csv", "Artikelnummer;Bezeichnung;Marke", "X;Lampe;Lux", "Y;Tisch;Lux")
    status, err = build(capsys, tmp_path)
    assert status == 0
    assert (
        "user = 'Kundennummer', item = 'Artikelnummer', time = 'Bestelldatum' (--user_col, --item_col, --time_col"
        in err
    )
    assert "dates have the day first: 1 dates cannot be read otherwise" in err
    assert rows(tmp_path) == [("7", "X", "1735639200"), ("8", "Y", "1735722000")]
    assert texts(tmp_path)["X"] == "Lampe. Lux. "
    status, err = build(capsys, tmp_path, "--user_col", "e mail", "--text_cols", "Marke", "--date_order", "day")
    assert status == 0
    assert [row[0] for row in rows(tmp_path)] == ["a@b", "c@d"]
    assert texts(tmp_path)["X"] == "Lux. "
    assert "--user_col" not in err


def test_the_columns_whose_ids_meet_are_taken(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,sku,product_id,timestamp", "u,S1,1,10", "v,S2,2,20")
    write(tmp_path, "products.csv", "id,title", "1,One", "2,Two")
    status, err = build(capsys, tmp_path)
    assert status == 0
    assert "item = 'product_id'" in err
    assert rows(tmp_path) == [("u", "1", "10"), ("v", "2", "20")]


def test_without_an_item_table_the_orders_name_the_items(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp,title", "u,1,10,One", "v,2,20,", "v,1,30,other")
    assert build(capsys, tmp_path, products=None)[0] == 0
    assert texts(tmp_path) == {"1": "One. ", "2": ""}


@pytest.mark.parametrize("flag", ["--user_col", "--item_col", "--time_col"])
def test_what_cannot_be_guessed_is_asked_for(tmp_path, capsys, flag):
    names = {"--user_col": "user_id", "--item_col": "item_id", "--time_col": "timestamp"}
    write(tmp_path, "orders.csv", ",".join("abc" if f == flag else name for f, name in names.items()), "u,i,1")
    write(tmp_path, "products.csv", "item_id,title", "i,One")
    status, err = build(capsys, tmp_path)
    assert status == 1
    assert f"name it by {flag}" in err
    assert "abc" in err
    assert build(capsys, tmp_path, flag, "abc")[0] == 0


def test_returns_by_a_flag(tmp_path, capsys):
    write(
        tmp_path,
        "orders.csv",
        "user_id,item_id,timestamp,Quantity,Status",
        "u,1,10,1,ok",
        "u,2,20,-1,ok",
        "u,3,30,1,Storniert",
        'u,4,40,"0,5",weg',
    )
    write(tmp_path, "products.csv", "item_id,title", *(f"{n},Item {n}" for n in range(1, 5)))
    status, err = build(capsys, tmp_path)
    assert status == 0
    assert "2 rows are returns or of cancelled orders, and count as purchases; leave them out by --drop_returns" in err
    assert build(capsys, tmp_path, "--drop_returns")[0] == 0
    assert [row[1] for row in rows(tmp_path)] == ["1", "4"]
    assert left_out(tmp_path) == {"of cancelled orders": 1, "with returns": 1}
    assert build(capsys, tmp_path, "--drop_status", "Weg", "--quantity_col", "none")[0] == 0
    assert [row[1] for row in rows(tmp_path)] == ["1", "2", "3"]


def test_any_number_of_guests_is_a_step(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", *(f"{'u' if n % 4 else ''},1,{n}" for n in range(8_000)))
    write(tmp_path, "products.csv", "item_id,title", "1,One")
    status, err = build(capsys, tmp_path)
    assert status == 0
    assert "rows without a user (guests) left out" in err
    assert left_out(tmp_path) == {"without a user (guests)": 2_000}
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", ",1,1", ",1,2")
    status, err = build(capsys, tmp_path)
    assert status == 1
    assert "of 2 rows 2 are without a user (guests)" in err


def test_an_orders_fields_hold_for_its_rows_across_blocks(tmp_path, capsys, monkeypatch):
    from dataset_tools.sources import Source

    lines = ["order,user_id,item_id,timestamp"]
    for order in range(40):
        lines += [f"o{order},u{order % 3},1,{order}", f"o{order},,2,", f"o{order},,3,"]
    write(tmp_path, "orders.csv", *lines)
    write(tmp_path, "products.csv", "item_id,title", "1,One", "2,Two", "3,Three")
    blocks = Source.blocks
    monkeypatch.setattr(Source, "blocks", lambda self, size=0, quoted=False: blocks(self, 37, quoted))
    assert (
        build(
            capsys,
            tmp_path,
            "--user_col",
            "user_id",
            "--item_col",
            "item_id",
            "--time_col",
            "timestamp",
            "--order_col",
            "order",
        )[0]
        == 0
    )
    assert len(rows(tmp_path)) == 120
    assert left_out(tmp_path) == {}


# ids that do not meet


@pytest.mark.parametrize(
    ("order_id", "product_id", "match"),
    [("00012", "12", "number"), ("12.0", "12", "number"), ("12", "0012", "number"), ("ab-1", "AB-1", "caseless")],
)
def test_an_id_of_each_side_and_what_makes_them_meet(tmp_path, capsys, order_id, product_id, match):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", f"u,{order_id},1", f"v,{order_id},2")
    write(tmp_path, "products.csv", "item_id,title", f"{product_id},One")
    status, err = build(capsys, tmp_path)
    assert status == 1
    for said in (repr(order_id), repr(product_id), "1 of 1 items would meet", f"--id_match {match}"):
        assert said in err
    assert build(capsys, tmp_path, "--id_match", match)[0] == 0
    assert [row[1] for row in rows(tmp_path)] == [product_id, product_id]
    assert texts(tmp_path) == {product_id: "One. "}


def test_another_column_that_has_the_ids_is_named(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", "u,S1,1", "v,S1,2")
    write(tmp_path, "products.csv", "item_id,title,barcode of old", "1,One,S1")
    status, err = build(capsys, tmp_path)
    assert status == 1
    assert "its column 'barcode of old' has 1 of the items: pass --item_id_col 'barcode of old'" in err


def test_blanks_around_ids_do_not_count(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", "u , 1\u00a0,1", " u,1 , 2 ")
    write(tmp_path, "products.csv", "item_id,title", " 1,One")
    assert build(capsys, tmp_path)[0] == 0
    assert rows(tmp_path) == [("u", "1", "1"), ("u", "1", "2")]


def test_numbers_of_users_lose_what_a_spreadsheet_added(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", "12.0,1,1", "12,1,2", "1.5,1,3")
    write(tmp_path, "products.csv", "item_id,title", "1,One")
    assert build(capsys, tmp_path)[0] == 0
    assert [row[0] for row in rows(tmp_path)] == ["12", "12", "1.5"]


def test_canonical():
    ids = pl.Series(["000", "0.0", "10", "1.50", "1e3", "", "A0"])
    assert canonical(ids, "number").to_list() == ["0", "0", "10", "1.50", "1e3", "", "A0"]
    assert canonical(ids, "exact").to_list() == ids.to_list()


# the shared cases


@pytest.mark.parametrize(
    ("case", "more", "users", "n_rows"),
    [
        ("shopify", [], 30, 300), ("utf16", [], 30, 270), ("semi", [], 30, 270), ("ws", [], 30, 270), ("case", [], 30, 270),
        ("zeros", ["--id_match", "number"], 30, 270), ("floatid", ["--id_match", "number"], 30, 270), ("sheets", [], 30, 270),
    ],
)  # fmt: skip
def test_shared_cases(shared, tmp_path, capsys, case, more, users, n_rows):
    folder = shared / "cases" / case
    names = ("orders.xlsx", "products.csv") if case == "sheets" else ("o.csv", "p.csv")
    status, err = run(
        capsys,
        "--interactions",
        folder / names[0],
        "--items",
        folder / names[1],
        "--name",
        "shop",
        "--out",
        tmp_path / "out",
        *more,
    )
    assert status == 0, err
    steps = json.loads((tmp_path / "out" / "shop" / "shop.json").read_text())["steps"]
    read = next(step for step in steps if step["step"] == "read")
    assert (read["interactions"], read["users"], read["items"]) == (n_rows, users, 12)
    assert left_out(tmp_path) == {}


def test_shopify_by_hand(shared, tmp_path, capsys):
    """Columns that are named by flags: the order's fields hold for all its rows too."""
    folder = shared / "cases" / "shopify"
    columns = ["--user_col", "Email", "--item_col", "Lineitem sku", "--time_col", "Created at", "--preset", "none"]
    files = [
        "--interactions",
        folder / "o.csv",
        "--items",
        folder / "p.csv",
        "--name",
        "shop",
        "--out",
        tmp_path / "out",
    ]
    assert run(capsys, *files, *columns, "--order_col", "Name")[0] == 0
    assert left_out(tmp_path) == {}
    steps = json.loads((tmp_path / "out" / "shop" / "shop.json").read_text())["steps"]
    assert steps[0]["interactions"] == 300


def test_a_table_without_rows(tmp_path, capsys):
    write(tmp_path, "orders.csv", "user_id,item_id,timestamp", "", " ")
    write(tmp_path, "products.csv", "item_id,title", "1,One")
    status, err = build(capsys, tmp_path)
    assert status == 1
    assert "holds no interaction that can be read; is it the right file?" in err
