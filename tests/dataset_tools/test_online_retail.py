"""Online Retail in every form that it is handed around in, against the statistics of the paper."""

import json
import zipfile
from datetime import datetime
from html import escape
from pathlib import Path

import polars as pl
import pytest

from dataset_tools import online_retail
from dataset_tools.common import run_cli

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "online_retail_raw" / "online_retail.parquet"
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


@pytest.fixture(scope="module")
def dump():
    """The real dump."""
    if not SHARED.exists():
        pytest.skip("the real dump (online_retail_raw) is not here")
    # the pound signs of this copy are UTF-8 that was read as latin-1
    return pl.read_parquet(SHARED).with_columns(pl.col("Description").str.replace_all("Â£", "£"))


def american(dates):
    """12/1/2010 8:26, without leading zeros."""
    return dates.str.to_datetime("%Y-%m-%d %H:%M:%S").dt.strftime("%-m/%-d/%Y %-H:%M")


def run(capsys, *arguments):
    status = run_cli(online_retail.main, [str(a) for a in arguments])
    return status, capsys.readouterr().err


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".json"}


def record(folder):
    return json.loads((folder / f"{folder.name}.json").read_text())


@pytest.fixture(scope="module")
def reference(dump, tmp_path_factory):
    """Files made from the ISO, UTF-8 form."""
    folder = tmp_path_factory.mktemp("iso")
    dump.write_csv(folder / "data.csv")
    arguments = ["--raw", folder / "data.csv", "--out", folder, "--benchmark_splits", "--quiet"]
    assert run_cli(online_retail.main, [str(a) for a in arguments]) == 0
    return folder / "OR"


def test_the_statistics_of_the_paper(dump, reference):
    found = record(reference)
    counts = found["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (16_520, 3_469, 519_906)
    assert found["rows"]["read"] == 541_909
    assert found["rows"]["without_description"] == 1_454
    steps = {step["step"]: step["interactions"] for step in found["steps"]}
    assert steps["rows of data.csv"] == 541_909
    assert steps["rows without a description left out"] == 541_909 - 1_454
    assert steps["duplicates removed"] == 535_026
    # the first row of the file is the first of the set, with its description
    assert (reference / "OR.inter").read_text().splitlines()[1] == "536365\t85123A\t1291191960"
    assert (reference / "OR.text").read_text().splitlines()[1] == "85123A\twhite hanging heart t-light holder."
    assert len((reference / "OR.test.inter").read_text().splitlines()) == 16_521
    # an invoice keeps the order of its lines
    rows = [line.split("\t") for line in (reference / "OR.inter").read_text().splitlines()[1:]]
    codes = [code for invoice, code, _ in rows if invoice == "536365"]
    assert codes == dump.filter(pl.col("InvoiceNo") == "536365")["StockCode"].to_list()


@pytest.mark.parametrize(("dates", "encoding"), [("american", "latin-1"), ("american", "utf-8"), ("iso", "latin-1")])
def test_every_form_of_the_csv(dump, reference, tmp_path, capsys, dates, encoding):
    frame = dump.with_columns(american(dump["InvoiceDate"])) if dates == "american" else dump
    text = frame.write_csv()
    assert "£" in text, "the dump must hold a character that tells the encodings apart"
    (tmp_path / "data.csv").write_bytes(text.encode(encoding))
    assert run(capsys, "--raw", tmp_path / "data.csv", "--out", tmp_path, "--benchmark_splits")[0] == 0
    assert content(tmp_path / "OR") == content(reference)


def write_xlsx(frame, path):
    """A workbook as Excel writes it: shared strings, numbers as numbers, times as days since 1899-12-30.

    The libraries that write workbooks take minutes for half a million rows.
    """
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    days = (frame["InvoiceDate"].str.to_datetime("%Y-%m-%d %H:%M:%S") - datetime(1899, 12, 30)).dt.total_seconds()
    frame = frame.with_columns(days / 86400)
    header = pl.DataFrame([frame.columns], schema=frame.columns, orient="row")
    texts = [part[name] for part in (header, frame) for name in part.columns if part[name].dtype == pl.String]
    texts = pl.concat([column.rename("text") for column in texts]).drop_nulls().unique()
    places = texts.to_frame().with_row_index("place")
    rows = []
    for part, first in ((header, 1), (frame, 2)):
        cells = []
        for letter, values in zip("ABCDEFGH", part.iter_columns(), strict=True):
            columns = {"text": values.cast(pl.String), "number": values.cast(pl.Float64, strict=False)}
            cell = pl.DataFrame(columns).with_row_index("row", first).join(places, on="text", how="left").sort("row")
            if values.dtype == pl.String:
                # 536365 is a number, 85123A is not
                whole = pl.col("text").str.contains(r"^[1-9]\d*$")
                number = pl.when(whole).then(pl.format(f'<c r="{letter}{{}}"><v>{{}}</v></c>', "row", "text"))
                value = number.otherwise(pl.format(f'<c r="{letter}{{}}" t="s"><v>{{}}</v></c>', "row", "place"))
            else:
                style = ' s="1"' if values.name == "InvoiceDate" else ""
                value = pl.format(f'<c r="{letter}{{}}"{style}><v>{{}}</v></c>', "row", "number")
            cells.append(cell.select(value.fill_null("").alias(letter)))
        text = (
            pl.concat(cells, how="horizontal").select(pl.concat_str(pl.all()).alias("cells")).with_row_index("n", first)
        )
        rows.append(text.select(pl.format('<row r="{}">{}</row>', "n", "cells").str.join("")).item())
    rows = "".join(rows)
    strings = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
    types = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{types}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{types}.worksheet+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{types}.styles+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{types}.sharedStrings+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="rId1" Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}">'
        '<sheets><sheet name="Online Retail" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="rId1" Type="{relations}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{relations}/styles" Target="styles.xml"/>'
        f'<Relationship Id="rId3" Type="{relations}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs>'
        "</styleSheet>",
        "xl/sharedStrings.xml": f'<sst xmlns="{main}">{strings}</sst>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as book:
        for name, text in parts.items():
            book.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)


def test_the_whole_dump_as_a_workbook(dump, reference, tmp_path, capsys):
    write_xlsx(dump, tmp_path / "Online Retail.xlsx")
    arguments = ["--raw", tmp_path / "Online Retail.xlsx", "--out", tmp_path, "--benchmark_splits"]
    assert run(capsys, *arguments)[0] == 0
    assert record(tmp_path / "OR")["counts"] == record(reference)["counts"]
    assert content(tmp_path / "OR") == content(reference)


def test_a_workbook_of_another_writer(tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl writes the workbook of this test")
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(HEADER.split(","))
    for row in shop():
        invoice, code, text, quantity, _, price, customer, country = row.split(",")
        when = datetime(2010, 12, 1, 8, int(invoice) % 10)
        sheet.append([int(invoice), code, text, int(quantity), when, float(price), int(customer), country])
    book.save(tmp_path / "x.xlsx")
    (tmp_path / "x.csv").write_text("\n".join([HEADER, *shop()]) + "\n")
    for kind in ("xlsx", "csv"):
        assert run(capsys, "--raw", tmp_path / f"x.{kind}", "--out", tmp_path / kind)[0] == 0
    assert content(tmp_path / "xlsx" / "OR") == content(tmp_path / "csv" / "OR")


def test_by_customer(dump, tmp_path, capsys):
    dump.write_csv(tmp_path / "data.csv")
    arguments = ["--sequence", "customer", "--drop_cancelled", "--drop_non_products", "--name", "customers"]
    assert run(capsys, "--raw", tmp_path / "data.csv", "--out", tmp_path, *arguments)[0] == 0
    rows = record(tmp_path / "customers")["rows"]
    described = dump.filter(pl.col("Description").fill_null("") != "")
    left = described.filter(~pl.col("InvoiceNo").str.starts_with("C"))
    assert rows["cancelled"] == len(described) - len(left)
    products = left.filter(pl.col("StockCode").str.contains(r"^\d{5}"))
    assert rows["non_products"] == len(left) - len(products) > 0
    assert rows["without_customer"] == products["CustomerID"].null_count()
    lines = (tmp_path / "customers" / "customers.inter").read_text().splitlines()[1:]
    users = [line.split("\t")[0] for line in lines]
    assert all(user.isdigit() and len(user) == 5 for user in users)
    times = [int(line.split("\t")[2]) for line in lines]
    assert all(b >= a for a, b, u, v in zip(times, times[1:], users, users[1:], strict=False) if u == v)
    assert not {"POST", "D", "M"} & {line.split("\t")[1] for line in lines}


# small dumps


def shop(invoices=6, codes=6):
    return [
        f"{100 + n},SKU{c},THING {c},1,12/1/2010 8:0{n},1.5,17850,UK" for n in range(invoices) for c in range(codes)
    ]


def test_first_description_counts_and_quotes_hold(tmp_path, capsys):
    rows = ["99,SKU0,,1,12/1/2010 8:00,1,,UK", '98,SKU0,"SMALL, ""RED""\nLAMP ",1,12/1/2010 8:00,1,,UK', *shop()]
    (tmp_path / "data.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    status, err = run(capsys, "--raw", tmp_path / "data.csv", "--out", tmp_path)
    assert status == 0
    assert "skipped" not in err
    assert (tmp_path / "OR" / "OR.text").read_text().splitlines()[1] == 'SKU0\tsmall, "red" lamp.'


def test_bad_rows_are_skipped_and_counted(tmp_path, capsys):
    bad = [
        "1,SKU0,X,many,12/1/2010 8:00,1,,UK",
        "1,SKU0,X,1,yesterday,1,,UK",
        "1,SKU0",
        '1,SKU0,"X, Y",1,12/1/2010 8:00,1,,UK,more',
    ]
    (tmp_path / "data.csv").write_text("\n".join([HEADER, *shop(), *bad]) + "\n")
    status, err = run(capsys, "--raw", tmp_path / "data.csv", "--out", tmp_path)
    assert status == 0
    assert record(tmp_path / "OR")["bad_lines"] == {"data.csv": 4}
    for reason in ("Quantity is not a number", "InvoiceDate is not a time", "2 columns where 8", "9 columns where 8"):
        assert reason in err
    assert record(tmp_path / "OR")["counts"]["interactions"] == 36


def test_missing_column_is_named(tmp_path, capsys):
    (tmp_path / "data.csv").write_text("InvoiceNo,Code,Description,Quantity,InvoiceDate\n1,2,3,4,5\n")
    status, err = run(capsys, "--raw", tmp_path / "data.csv", "--out", tmp_path)
    assert status == 1
    assert "has no column StockCode; its columns are InvoiceNo, Code" in err
    assert not (tmp_path / "OR").exists()


@pytest.mark.parametrize("name", ["x.xlsx", "x.parquet", "x.pdf"])
def test_files_that_are_not_what_they_say(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"no such file format")
    status, err = run(capsys, "--raw", tmp_path / name, "--out", tmp_path / "out")
    assert status == 1
    assert err.startswith("error: ")
    assert name in err


@pytest.mark.parametrize(
    ("names", "form", "day_first"),
    [
        ({}, "12/1/2010 8:0{}", False),
        ({}, "01-12-2010 08:0{}", True),
        ({"InvoiceNo": "Invoice", "UnitPrice": "Price", "CustomerID": "Customer ID"}, "2010-12-01 08:0{}:00", None),
        ({name: name.lower() for name in HEADER.split(",")}, "01/12/2010 08:0{}", True),
        ({"InvoiceNo": "invoice", "CustomerID": "customer_id", "InvoiceDate": "invoice date"}, "1.12.2010 8:0{}", True),
    ],
)
def test_the_forms_that_circulate(tmp_path, capsys, names, form, day_first):
    header = ",".join(names.get(name, name) for name in HEADER.split(","))
    lines = [row.replace("12/1/2010 8:0", "@").replace(",17850,", ",17850.0,") for row in shop()]
    lines = [row[: row.index("@")] + form.format(row[row.index("@") + 1]) + row[row.index("@") + 2 :] for row in lines]
    (tmp_path / "data.csv").write_text("\n".join([header, *lines]) + "\n")
    arguments = [
        "--raw",
        tmp_path / "data.csv",
        "--out",
        tmp_path,
        "--sequence",
        "customer",
        "--user_k",
        1,
        "--item_k",
        1,
    ]
    if day_first and "/" in form:
        arguments += ["--date_order", "day"]  # nothing tells a day of all the same dates with slashes
    status, err = run(capsys, *arguments)
    assert status == 0, err
    lines = (tmp_path / "OR" / "OR.inter").read_text().splitlines()
    assert lines[1] == "17850\tSKU0\t1291190400"
    assert len(lines) == 37


def test_the_years_of_the_data_tell_the_order_of_dates(tmp_path, capsys):
    rows = [row.replace("12/1/2010", "08/12/2009") for row in shop()]
    (tmp_path / "data.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    status, err = run(capsys, "--raw", tmp_path / "data.csv", "--out", tmp_path)
    assert status == 0
    assert "day first: the dates lie in the years of this data then" in err
    assert (tmp_path / "OR" / "OR.inter").read_text().splitlines()[1].endswith("\t1260259200")


def test_a_workbook_of_two_sheets_is_read_whole(tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl writes the workbook of this test")
    book = openpyxl.Workbook(write_only=True)
    for year, invoices in (("Year 2009-2010", range(3)), ("Year 2010-2011", range(3, 6))):
        sheet = book.create_sheet(year)
        sheet.append(
            ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"]
        )
        for n in invoices:
            for c in range(6):
                sheet.append([100 + n, f"SKU{c}", f"THING {c}", 1, datetime(2010, 12, 1, 8, n), 1.5, 17850.0, "UK"])
    book.save(tmp_path / "online_retail_II.xlsx")
    arguments = ["--raw", tmp_path / "online_retail_II.xlsx", "--out", tmp_path]
    status, err = run(capsys, *arguments)
    assert status == 0
    assert "read sheets 'Year 2009-2010', 'Year 2010-2011'" in err
    assert record(tmp_path / "OR")["counts"]["interactions"] == 36
    status, err = run(capsys, *arguments, "--overwrite", "--sheet", "Year 2010-2011", "--user_k", 1, "--item_k", 1)
    assert status == 0
    assert "left out: 'Year 2009-2010' (not in --sheet)" in err
    assert record(tmp_path / "OR")["counts"]["interactions"] == 18


@pytest.mark.parametrize("name", ["or2", "or_dmy", "or_lower"])
def test_shared_cases(shared, tmp_path, capsys, name):
    raw = shared / "cases" / "or_names" / f"{name}.csv"
    assert run(capsys, "--raw", raw, "--out", tmp_path, "--user_k", 1, "--item_k", 1)[0] == 0
    assert record(tmp_path / "OR")["rows"]["read"] == 399
    assert (tmp_path / "OR" / "OR.inter").read_text().splitlines()[1] == "536365\t85123A\t1291191960"
