from pathlib import Path

import pytest

from dataset_tools.common import UserError
from dataset_tools.features import read_texts


def test_item_file_with_more_columns(tmp_path: Path) -> None:
    (tmp_path / "toy.item").write_text(
        "item_id:token\ttext:token_seq\tprice:float\na\tred shoe\t3\nb\tblue\thot\tpan\t4\nc\t \t5\nb\tagain\t6\n"
    )
    assert read_texts(tmp_path, "toy") == (["a", "b", "c"], ["red shoe", "blue hot pan", "."])


def test_warnings_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.text").write_bytes(b"item_id:token\ttext:token_seq\na\t\nb\nc\tcaf\xe9\r\na\tx\n")
    ids, texts = read_texts(tmp_path, "toy")
    assert (ids, texts) == (["a", "b", "c"], [".", ".", "caf\ufffd"])
    said = capsys.readouterr().err
    assert "2 of 3 items have no text" in said
    assert "not valid UTF-8 in 1 lines" in said
    assert "names 1 items more than once" in said


def test_line_separators_within_a_text(tmp_path: Path) -> None:
    rows = "a\tone\u2028two\x0bthree\nb\tfour\n"
    (tmp_path / "toy.text").write_text("item_id:token\ttext:token_seq\n" + rows, encoding="utf-8")
    assert read_texts(tmp_path, "toy")[0] == ["a", "b"]


HEADER = "item_id:token\ttext:token_seq\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["neither", "toy.text", "toy.item"]),
        ({"toy.text": ""}, ["toy.text is empty"]),
        ({"toy.text": HEADER}, ["holds no items"]),
        ({"toy.item": "item_id:token\tyear:token\na\t1\n"}, ["no column text", "year"]),
        ({"toy.item": "item_id:token\ttext:token_seq\tprice:float\na\n"}, ["line 2 has 1 columns"]),
        ({"toy.text": HEADER + "a\tx\n", "toy.item2index": "a\t0\nb\t1\n"}, ["1 items", "'b'"]),
        ({"toy.text": HEADER + "a\tx\n", "toy.item2index": "a\t1\n"}, ["line 1: index 1"]),
        ({"toy.text": HEADER + "a\tx\nb\ty\n", "toy.item2index": "a\t0\nb\t0\n"}, ["line 2: index 0", "twice"]),
        ({"toy.text": HEADER + "a\tx\n", "toy.item2index": "a 0\n"}, ["line 1 is 'a 0'"]),
    ],
)
def test_bad_texts(files: dict[str, str], words: list[str], tmp_path: Path) -> None:
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as caught:
        read_texts(tmp_path, "toy")
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_official_texts_in_index_order(shared: Path) -> None:
    folder = shared / "data" / "Scientific"
    ids, texts = read_texts(folder, "Scientific")
    assert len(ids) == len(texts) == 4385
    assert ids[:2] == ["B00TNNWMXI", "B00IBZE2EQ"]
    by_id = dict(line.split("\t", 1) for line in (folder / "Scientific.text").read_text().splitlines()[1:])
    assert texts == [by_id[item].strip() for item in ids]
