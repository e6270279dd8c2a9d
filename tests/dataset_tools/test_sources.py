"""Files as people have them: encodings, separators, quotes, blank lines, dates, workbooks, Python literals."""

import gzip
import subprocess
import sys
import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.common import UserError
from dataset_tools.sources import BadLines, DateOrder, Source, peek, read_json_lines, read_table
from dataset_tools.sources.lines import records

ROWS = [("ü1", "Café, No 1"), ("2", "Größe"), ("3", "€ 5")]
TYPES = {"id": pl.String, "name": pl.String}


def table(source, types=TYPES, bad=None, **more):
    bad = bad or BadLines(0)
    return pl.concat([frame for _, frame in read_table(source, types, bad, required={}, **more)])


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
# line ends of a carriage return alone are older than Unicode text
WAYS = [(e, s, "\r\n" if s == "|" else "\n") for e in ENCODINGS for s in ",;\t|"] + [("cp1252", ";", "\r")]


@pytest.mark.parametrize(("encoding", "separator", "ends"), WAYS)
def test_every_way_to_write_a_table_is_told(tmp_path, encoding, separator, ends):
    text = pl.DataFrame(ROWS, schema=["id", "name"], orient="row").write_csv(separator=separator)
    data = text.replace("\n", ends).encode(encoding)
    path = tmp_path / ("t.csv.gz" if separator == ";" else "t.csv")
    path.write_bytes(gzip.compress(data) if separator == ";" else data)
    source = Source(path)
    assert table(source).rows() == ROWS
    assert peek(source).rows() == ROWS
    assert any("--separator" in note for note in source.notes) == (separator != ",")
    assert any("--encoding" in note for note in source.notes) == (encoding not in ("utf-8", "utf-8-sig"))


def test_a_flag_overrules_the_guess(tmp_path):
    (tmp_path / "t.csv").write_bytes("id,name\n1,ж;ж\n".encode("cp1251"))
    source = Source(tmp_path / "t.csv")
    assert table(source, encoding="cp1251", separator=",").rows() == [("1", "ж;ж")]
    assert source.notes == []
    with pytest.raises(UserError, match="another --encoding"):
        table(Source(tmp_path / "t.csv"), encoding="utf-8")
    with pytest.raises(UserError, match=r"t.csv does not read as utf-16: .*; try another --encoding"):
        table(Source(tmp_path / "t.csv"), encoding="utf-16")
    with pytest.raises(UserError, match="no encoding klingon"):
        table(Source(tmp_path / "t.csv"), encoding="klingon")


def test_a_first_line_that_says_the_separator(tmp_path):
    (tmp_path / "t.csv").write_text("sep=|\nid|name\n1|a,b,c\n2|d,e\n")
    assert table(Source(tmp_path / "t.csv")).rows() == [("1", "a,b,c"), ("2", "d,e")]


@pytest.mark.parametrize("header", ["ID, Name ", "Id,NAME", "i_d,na me", '"id","name"'])
def test_headers_without_regard_to_case_and_blanks(tmp_path, header):
    (tmp_path / "t.csv").write_text(header + "\n1,a\n")
    assert table(Source(tmp_path / "t.csv")).rows() == [("1", "a")]


def test_equal_names_are_told_apart(tmp_path):
    (tmp_path / "t.csv").write_text("id,name,name,\n1,a,b,c\n")
    types = dict.fromkeys(("id", "name", "name_2", "column_4"), pl.String)
    assert table(Source(tmp_path / "t.csv"), types).rows() == [("1", "a", "b", "c")]


# quotes and blank lines


@pytest.mark.parametrize("later", ["", '"x, y"'])
def test_a_quote_that_is_never_closed_is_named_at_once(tmp_path, later):
    lines = [f"u{n},{later or 'item'},17" for n in range(120_000)]
    lines[1_000] = 'u1000,"item,17'
    path = tmp_path / "o.csv"
    path.write_text("user,item,time\n" + "\n".join(lines) + "\n")
    assert path.stat().st_size > 1_500_000
    started = time.perf_counter()
    with pytest.raises(UserError, match="a quote that is opened in line 1,002 and never closed"):
        table(Source(path), dict.fromkeys(("user", "item"), pl.String), BadLines(10**6, 0))
    assert time.perf_counter() - started < 10
    # as a character like any other it does no harm
    rows = table(Source(path), dict.fromkeys(("user", "item"), pl.String), BadLines(10**6, 0), quoted=False)
    assert (len(rows) == 120_000) == (not later)


def test_a_quote_closed_too_late_says_how_far_it_reaches(tmp_path, capsys):
    (tmp_path / "o.csv").write_text('id,name\n1,"a\n2,b\n3,c",d\n4,e\n')
    assert table(Source(tmp_path / "o.csv"), bad=BadLines())["id"].to_list() == ["4"]
    assert "line 2: 3 columns where 2 are due (a quote reaches to line 4)" in capsys.readouterr().err


MEMORY = """
import resource, sys
import polars as pl
from dataset_tools.sources import BadLines, Source, read_json_lines, read_table
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source, bad = Source(sys.argv[1]), BadLines()
if ".json" in sys.argv[1]:
    n = sum(len(records) for _, records in read_json_lines(source, {"id": str}, bad))
else:
    n = sum(len(frame) for _, frame in read_table(source, {"id": pl.String}, bad, required={"id": "given"}))
print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)
"""


@pytest.mark.parametrize(("name", "first"), [("t.csv.gz", b"id,b\n1,2\n"), ("t.jsonl.gz", b'{"id": "1"}\n')])
def test_a_small_gzip_of_blank_lines_stays_small(tmp_path, name, first):
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=6) as out:
        out.write(first)
        for _ in range(400):
            out.write(b"\n" * (1 << 20))
        out.write(first.splitlines()[-1] + b"\n")
    assert path.stat().st_size < 1_000_000
    ran = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True, timeout=120)
    rows, mebibytes = ran.stdout.split()
    assert int(rows) == 2
    assert int(mebibytes) < 300


CELLS = st.text(st.sampled_from('ab," \n\té'), max_size=5)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=20))
def test_records_are_the_lines_outside_quotes(rows):
    text = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)
    number, expected = 1, []
    for row in rows:
        record = ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n"
        expected.append((number, record.encode()))
        number += record.count("\n")
    assert list(records(text.encode(), 1, quoted=True)) == expected


def test_records_between_blank_lines():
    assert list(records(b"\n \na,b\n\n\n  c\n\t\n", 5, quoted=False)) == [(7, b"a,b\n"), (10, b"  c\n")]


# workbooks


def workbook(path, sheets):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl writes the workbook of this test")
    book = openpyxl.Workbook(write_only=True)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return Source(path)


def test_all_sheets_with_the_same_header_are_read_and_the_others_named(tmp_path):
    head = ["id", "name"]
    sheets = {
        "2009": [[], head, [1, "a"]], "2010": [["ID ", "Name"], [2, "b"], [], [3, "c"]],
        "Notes": [["by", "hand"], ["x", "y"]], "Empty": [],
    }  # fmt: skip
    source = workbook(tmp_path / "t.xlsx", sheets)
    found = [(list(lines), frame.rows()) for lines, frame in read_table(source, TYPES, BadLines(0), required={})]
    assert found == [(["2009!3"], [("1", "a")]), (["2010!2", "2010!4"], [("2", "b"), ("3", "c")])]
    assert "read sheets '2009', '2010'; left out: 'Notes' (other columns: by, hand), 'Empty' (empty)" in source.notes[0]
    chosen = workbook(tmp_path / "u.xlsx", sheets)
    chosen.sheets = ["2010"]
    assert table(chosen).rows() == [("2", "b"), ("3", "c")]
    chosen.sheets = ["2011"]
    with pytest.raises(UserError, match="has no sheet '2011'; its sheets are 2009, 2010, Notes, Empty"):
        table(chosen)


# dates


def decide(tmp_path, *dates):
    (tmp_path / "o.csv").write_text("x\n")
    order = DateOrder()
    for date in dates:
        order.add(pl.Series([date]))
    return order.decide(Source(tmp_path / "o.csv", quiet=True), "time")


@pytest.mark.parametrize(
    ("dates", "day_first"),
    [
        (["01/02/2025", "13/02/2025"], True),
        (["01/02/2025 10:00", "02/13/2025 11:00"], False),
        (["30/01/2025", "01/02/2025"], True),
        (["02/01/2025", "03/01/2025", "01/02/2025"], True),  # in order with the day first alone
        (["01/09/2025", "02/01/2025", "03/01/2025"], False),
        (["03.04.2025", "01.02.2025"], True),
        (["2025-01-02", "1700000000"], False),
    ],
)
def test_the_file_as_a_whole_tells_the_day_from_the_month(tmp_path, dates, day_first):
    assert decide(tmp_path, *dates) is day_first


def test_dates_that_nothing_tells_are_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"'03/04/2025', and nothing tells .*--date_order day"):
        decide(tmp_path, "03/04/2025", "01/02/2025")
    with pytest.raises(UserError, match=r"day first and with the month first \(1 and 1 of 2\)"):
        decide(tmp_path, "13/04/2025", "04/13/2025")


# Python literals


def test_python_dicts_are_read_and_nothing_in_them_runs(tmp_path):
    path = tmp_path / "meta.json"
    lines = ["{'id': 'a', 'title': 'It\\'s', 'n': [['x', 'y']]}", "{'id': 'b' + str(open('gone', 'w'))}", "{'id': 'c'}"]
    path.write_text("\n".join(lines) + "\n")
    source, bad = Source(path), BadLines(5, 0)
    found = [record for _, records in read_json_lines(source, {"id": str}, bad) for record in records]
    assert [record._0 for record in found] == ["a", "c"]
    assert bad.total == 1
    assert not (tmp_path / "gone").exists()
    assert "Python dicts" in source.notes[0]


def test_a_json_array_is_a_table_too(tmp_path):
    (tmp_path / "t.json").write_text('[\n {"id": 1,\n  "name": "a\\nb"},\n {"id": "2", "name": null}\n]\n')
    assert table(Source(tmp_path / "t.json", quiet=True)).rows() == [("1", "a\nb"), ("2", None)]
    assert peek(Source(tmp_path / "t.json", quiet=True)).rows() == [("1", "a\nb"), ("2", None)]
    (tmp_path / "t.json").write_text('[{"id": 1}, {"id"]')
    with pytest.raises(UserError, match="begins as a JSON array and cannot be read as one"):
        table(Source(tmp_path / "t.json"))
