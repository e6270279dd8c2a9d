"""Anyone's tables, in every kind of file that is read."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools import custom
from dataset_tools.common import run_cli
from dataset_tools.sources import BadLines, Source, parse_times, read_delimited

ORDERS = pl.DataFrame(
    [(f"u{u}", f"i{i}", f"2024-01-{20 - i:02d} 10:00:00") for u in range(5) for i in range(6)],
    schema=["customer", "sku", "at"],
    orient="row",
)
PRODUCTS = pl.DataFrame(
    {
        "sku": [f"i{i}" for i in range(6)] + ["i0"],
        "name": [f'Lamp, "No {i}"' for i in range(6)] + ["again"],
        "brand": ["Lux", None, "Lux", "Lux", "Lux", "Lux\tand\nCo", "no"],
    }
)
COLUMNS = ["--user_col", "customer", "--item_col", "sku", "--time_col", "at", "--text_cols", "name", "brand"]


def run(capsys, *arguments):
    status = run_cli(custom.main, [str(a) for a in arguments])
    return status, capsys.readouterr().err


def write(frame, path):
    kind = path.suffix
    if kind == ".parquet":
        frame.write_parquet(path)
    elif kind == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if kind == ".tsv" else ",")
    return path


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".json"}


def shop(capsys, folder, kind, *more, orders=ORDERS, products=PRODUCTS):
    folder.mkdir(exist_ok=True)
    orders, products = write(orders, folder / f"orders{kind}"), write(products, folder / f"products{kind}")
    files = ["--interactions", orders, "--items", products]
    return run(capsys, *files, "--name", "shop", "--out", folder / "out", *(more or COLUMNS))


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_kinds_of_files(tmp_path, capsys, kind):
    assert shop(capsys, tmp_path, kind)[0] == 0
    folder = tmp_path / "out" / "shop"
    lines = (folder / "shop.inter").read_text().splitlines()
    assert lines[:3] == ["user_id:token\titem_id:token\ttimestamp:float", "u0\ti5\t1705312800", "u0\ti4\t1705399200"]
    assert len(lines) == 31
    texts = (folder / "shop.item").read_text().splitlines()
    assert texts[1] == "i5\tLamp, No 5. Lux andCo. "
    # a field that is absent adds nothing
    assert texts[5] == "i1\tLamp, No 1. "
    record = json.loads((folder / "shop.json").read_text())
    assert record["metadata"] == {"records": 7, "duplicate_records": 1}
    assert [source["file"] for source in record["sources"]] == [f"orders{kind}", f"products{kind}"]


def test_times_as_times(tmp_path, capsys):
    orders = ORDERS.with_columns(pl.col("at").str.to_datetime("%Y-%m-%d %H:%M:%S"))
    assert shop(capsys, tmp_path / "a", ".parquet", orders=orders)[0] == 0
    assert shop(capsys, tmp_path / "b", ".csv")[0] == 0
    assert content(tmp_path / "a" / "out" / "shop") == content(tmp_path / "b" / "out" / "shop")


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S+02:00"])
def test_iso_dates(tmp_path, capsys, form):
    orders = ORDERS.with_columns(pl.col("at").str.to_datetime("%Y-%m-%d %H:%M:%S").dt.strftime(form))
    assert shop(capsys, tmp_path, ".csv", orders=orders)[0] == 0
    first = (tmp_path / "out" / "shop" / "shop.inter").read_text().splitlines()[1]
    assert first == f"u0\ti5\t{1705276800 if form.endswith('d') else 1705305600}"


def test_times_with_a_zone(tmp_path, capsys):
    zoned = pl.col("at").str.to_datetime("%Y-%m-%d %H:%M:%S").dt.replace_time_zone("Europe/Berlin")
    assert shop(capsys, tmp_path, ".parquet", orders=ORDERS.with_columns(zoned))[0] == 0
    assert (tmp_path / "out" / "shop" / "shop.inter").read_text().splitlines()[1] == "u0\ti5\t1705309200"


def test_line_numbers_behind_quoted_line_ends_and_bad_lines(tmp_path, capsys):
    rows = ['"u0","i0","2024-01-01"', '"a\nb","i1","2024-01-01"', "u1,i1", "", 'u2,i2,"soon"', "u3,i3,later"]
    (tmp_path / "o.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    (tmp_path / "p.csv").write_text("item_id,title\ni0,Zero\ni1,One\n")
    arguments = ["--interactions", tmp_path / "o.csv", "--items", tmp_path / "p.csv", "--name", "shop"]
    _, err = run(capsys, *arguments, "--out", tmp_path, "--user_k", 1, "--item_k", 1)
    shown = [line.split(": ")[0] for line in err.splitlines() if line.startswith("skipped")]
    assert shown == ["skipped o.csv, line 5", "skipped o.csv, line 7", "skipped o.csv, line 8"]


def test_no_time_keeps_the_order_of_the_file(tmp_path, capsys):
    more = [*COLUMNS, "--no_time", "--benchmark_splits"]
    assert shop(capsys, tmp_path, ".csv", *more, orders=ORDERS.drop("at"))[0] == 0
    lines = (tmp_path / "out" / "shop" / "shop.inter").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines[1:7]] == [f"i{i}" for i in range(6)]
    assert (tmp_path / "out" / "shop" / "shop.test.inter").read_text().splitlines()[1] == "0\t0 1 2 3 4\t5"


def test_separator_encoding_and_time_format(tmp_path, capsys):
    orders = ORDERS.with_columns(
        pl.col("at").str.to_datetime("%Y-%m-%d %H:%M:%S").dt.strftime("%d.%m.%Y %H:%M"),
        pl.col("sku").str.replace("i5", "größe"),
    )
    products = PRODUCTS.with_columns(pl.col("sku").str.replace("i5", "größe"))
    for name, frame in (("orders.csv", orders), ("products.csv", products)):
        (tmp_path / name).write_bytes(frame.write_csv(separator=";").encode("latin-1"))
    arguments = ["--interactions", tmp_path / "orders.csv", "--items", tmp_path / "products.csv", "--name", "shop"]
    arguments += ["--out", tmp_path / "out", "--separator", ";", "--time_format", "%d.%m.%Y %H:%M", *COLUMNS]
    assert run(capsys, *arguments, "--encoding", "latin-1")[0] == 0
    assert "u0\tgröße\t1705312800" in (tmp_path / "out" / "shop" / "shop.inter").read_text(encoding="utf-8")
    status, err = run(capsys, *arguments, "--overwrite", "--max_bad_lines", 3, "--encoding", "utf-8")
    assert status == 1
    assert "--encoding" in err
    # and all of it is found out: the encoding, the separator, and that a day comes first
    found = ["--interactions", tmp_path / "orders.csv", "--items", tmp_path / "products.csv", "--name", "shop"]
    status, err = run(capsys, *found, "--out", tmp_path / "again", *COLUMNS)
    assert status == 0
    assert content(tmp_path / "again" / "shop") == content(tmp_path / "out" / "shop")
    for said in ("read as cp1252", "separated by ';'", "dates have the day first"):
        assert said in err


def test_rating_tells_rows_apart(tmp_path, capsys):
    orders = pl.concat([ORDERS, ORDERS]).with_columns(pl.Series("stars", [1] * 30 + [2] * 30))
    assert shop(capsys, tmp_path / "a", ".csv", *COLUMNS, orders=orders)[0] == 0
    assert shop(capsys, tmp_path / "b", ".csv", *COLUMNS, "--rating_col", "stars", orders=orders)[0] == 0
    counts = [len((tmp_path / n / "out" / "shop" / "shop.inter").read_text().splitlines()) for n in "ab"]
    assert counts == [31, 61]


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".jsonl"])
def test_missing_column_is_named(tmp_path, capsys, kind):
    status, err = shop(capsys, tmp_path, kind, "--user_col", "who", "--item_col", "sku", "--time_col", "at")
    assert status == 1
    assert "has no column who; its columns are customer, sku, at" in err
    assert not (tmp_path / "out").exists()


def test_bad_values(tmp_path, capsys):
    extra = pl.DataFrame({"customer": ["u0", None, "u1"], "sku": ["i0", "i1", "i2"], "at": ["soon", "1", None]})
    for kind in (".csv", ".parquet"):
        status, err = shop(capsys, tmp_path / kind[1:], kind, orders=pl.concat([ORDERS, extra]))
        assert status == 0
        assert "at is not a time" in err
        record = json.loads((tmp_path / kind[1:] / "out" / "shop" / "shop.json").read_text())
        assert record["bad_lines"] == {f"orders{kind}": 1}
        assert record["counts"]["interactions"] == 30
        steps = [(step["step"], step["interactions"]) for step in record["steps"]]
        assert steps[:5] == [
            (f"rows of orders{kind}", 33),
            ("rows without a user (guests) left out", 32),
            ("rows without a time left out", 31),
            ("rows that cannot be read left out", 30),
            ("read", 30),
        ]


def test_tab_in_an_id_is_refused(tmp_path, capsys):
    orders = ORDERS.with_columns(pl.col("sku").str.replace("i5", "i\t5"))
    products = PRODUCTS.with_columns(pl.col("sku").str.replace("i5", "i\t5"))
    status, err = shop(capsys, tmp_path, ".csv", orders=orders, products=products)
    assert status == 1
    assert "holds a tab" in err
    assert list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else []) == []


def test_nothing_in_common(tmp_path, capsys):
    status, err = shop(capsys, tmp_path, ".csv", products=PRODUCTS.with_columns(pl.lit("zz").alias("sku")))
    assert status == 1
    assert "a row in the item table" in err
    assert "'i0'" in err
    assert "'zz'" in err
    assert "--item_id_col" in err


CELLS = st.text(st.sampled_from('ab,"\n \té;'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("xyz"), CELLS, CELLS), min_size=1, max_size=30), size=st.integers(1, 80))
def test_quoted_csv_in_blocks_is_the_table_that_was_written(rows, size, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    frame = pl.DataFrame(rows, schema=["id", "a", "b"], orient="row")
    frame.write_csv(path, quote_style="always")
    source = Source(path)
    blocks = source.blocks
    source.blocks = lambda _size=0, quoted=False: blocks(size, quoted)  # type: ignore[method-assign]
    types = dict.fromkeys(("b", "id", "a"), pl.String)
    bad = BadLines()
    parts = [part for _, part in read_delimited(source, types, bad, header=True, required={"id": "given"})]
    assert bad.total == 0
    read = pl.concat(parts).select("id", "a", "b").with_columns(pl.all().fill_null(""))
    assert read.rows() == rows


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1700000000", 1700000000.0),
        ("1700000000.5", 1700000000.5),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14 22:13:20.250", 1700000000.25),
        ("2023-11-14", 1699920000.0),
        ("2023-11-14T22:13", 1699999980.0),
        ("2023-11-15T00:13:20+02:00", 1700000000.0),
        ("2023-11-14 17:43:20.5-0430", 1700000000.5),
        ("2023-11-14 23:13:20 +01", 1700000000.0),
        ("11/14/2023 22:13", 1699999980.0),
        ("2023-11-14 23:13:20 CET", 1700000000.0),
        ("11/14/2023 2:13 PM PST", 1699999980.0),
        ("2023-11-14 22:13:20 UTC", 1700000000.0),
        ("2023-11-14 22:13:20 XYZ", None),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 1700000000.0),
        ("November 14, 2023 10:13 pm", 1699999980.0),
        ("14th nov 2023", 1699920000.0),
        ("20231114", 1699920000.0),
        ("2023/11/14 22:13:20,5", 1700000000.5),
        ("31/02/2023", None),
        ("11/14/2023 25:13", None),
        ("11/14/23 22:13", 1699999980.0),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("14/11/2023", None),
    ],
)
def test_parse_times(value, seconds):
    assert parse_times(pl.Series([value])).to_list() == [seconds]


def test_quotes_that_do_not_match_cost_their_line_alone(tmp_path, capsys):
    (tmp_path / "products.csv").write_text(
        "sku,name\n" + "".join(f"i{i},Lamp {i}\n" for i in range(5)) + 'i5,"Lamp" \n'
    )
    orders = write(ORDERS, tmp_path / "orders.csv")
    files = [
        "--interactions",
        orders,
        "--items",
        tmp_path / "products.csv",
        "--name",
        "shop",
        "--out",
        tmp_path / "out",
    ]
    status, err = run(capsys, *files, *COLUMNS[:-1])
    assert status == 0
    assert "line 7: quotes that do not match" in err
    assert len((tmp_path / "out" / "shop" / "shop.item").read_text().splitlines()) == 6


def test_no_item_has_a_text(tmp_path, capsys):
    status, err = shop(capsys, tmp_path, ".csv", products=PRODUCTS.with_columns(name=pl.lit("..."), brand=pl.lit("-")))
    assert status == 1
    assert "none of the 6 items has a text" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("flag", "value"), [("--separator", ";;"), ("--word_drop", "2"), ("--pooling", "max")])
def test_impossible_values_end_the_run_before_it_starts(tmp_path, capsys, flag, value):
    with pytest.raises(SystemExit) as caught:
        shop(capsys, tmp_path, ".csv", *COLUMNS, flag, value)
    assert caught.value.code == 2
    assert f"{flag}: " in capsys.readouterr().err
