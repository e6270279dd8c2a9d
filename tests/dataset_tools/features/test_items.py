"""Item files as RecBole publishes them and as people write them: which columns make the text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.common import UserError, run_cli
from dataset_tools.features import Fields, encode_dataset, read_ids, read_texts
from dataset_tools.features.command import main

AMAZON = (
    "item_id:token\tcategories:token_seq\ttitle:token\tprice:float\tsales_type:token\tsales_rank:float\tbrand:token\n"
    "a\t'Kitchen', 'lamp'\tfoldable lamp\t37.35\tKitchen\t792.0\tAlder\n"
    "b\t['Kids', \"Men's\"]\tchair &amp; desk\t\tBedroom\t9.0\t\n"
    "c\t'Office'\tlamp, folding\t1.0\tOffice\t1.0\tAlder\n"
)


def _write(folder: Path, text: str, ending: str = "item") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"toy.{ending}").write_text(text, encoding="utf-8")
    return folder


def test_columns_that_look_like_text(tmp_path: Path) -> None:
    ids, texts = read_texts(_write(tmp_path, AMAZON), "toy")
    assert ids == ["a", "b", "c"]
    assert texts == ["Kitchen, lamp foldable lamp Alder", "Kids, Men's chair & desk", "Office lamp, folding Alder"]


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        (
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            "1\tToy Story\t1995\tComedy",
            "1 3",
        ),
        ("item_id:token\ttitle_id:token\tName:token\turl:token", "1\tAB\tlamp\thttp://a b", "2"),
        ("item_id:token\tcategories:token_seq\tcategoryName:token", "1\t12 45\tlamp", "2"),  # codes are no text
        ("item_id:token\tabout:token_seq\tstate:token", "1\tgood food and wine\tAZ", "1"),
        ("item_id:token\tcategories:float\tbrand:token", "1\t12.0\t東芝", "2"),
        ("item_id:token\ttitle:token\ttext:token_seq", "1\tno\tyes", "2"),  # the column text goes before all
    ],
)
def test_which_columns(header: str, row: str, columns: str, tmp_path: Path) -> None:
    _, texts = read_texts(_write(tmp_path, f"{header}\n{row}\n"), "toy")
    assert texts == [" ".join(row.split("\t")[int(at)] for at in columns.split())]


def test_named_columns_in_the_order_of_the_names(tmp_path: Path) -> None:
    folder = _write(tmp_path, AMAZON)
    fields = Fields.of({"text_cols": ["brand", "price", "title"]})
    assert read_texts(folder, "toy", fields)[1][0] == "Alder 37.35 foldable lamp"
    assert read_texts(folder, "toy", Fields.of({"text_cols": "title"}))[1] == [
        "foldable lamp",
        "chair & desk",
        "lamp, folding",
    ]
    # NAME.text has no such columns, NAME.item has
    _write(tmp_path, "item_id:token\ttext:token_seq\na\tone\nb\ttwo\nc\tthree\n", "text")
    assert read_texts(folder, "toy")[1] == ["one", "two", "three"]
    assert read_texts(folder, "toy", fields)[1][0] == "Alder 37.35 foldable lamp"


def test_other_names_and_separators(tmp_path: Path) -> None:
    folder = _write(
        tmp_path, 'product:token,title:token,genre:token_seq\np1,"lamp, folding",Drama|War\np2,"a ""b""",\n'
    )
    fields = Fields.of({"ITEM_ID_FIELD": "product", "field_separator": ",", "seq_separator": "|"})
    assert read_texts(folder, "toy", fields) == (["p1", "p2"], ["lamp, folding Drama, War", 'a "b"'])
    assert read_ids(folder, "toy", fields) == ["p1", "p2"]
    _write(tmp_path, "item_id:token::title:token::genre:token\n1::Toy Story::Animation\n")
    assert read_texts(folder, "toy", Fields(field_separator="::"))[1] == ["Toy Story Animation"]


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        (AMAZON, {"text_cols": ["title", "colour"]}, ["no column colour", "sales_type"]),
        (AMAZON, {"text_cols": ["title", "title"]}, ["names a column twice"]),
        (AMAZON, {"text_cols": []}, ["must be a list of columns"]),
        (AMAZON, {"text_cols": 3}, ["must be a list of columns", "3"]),
        (AMAZON, {"ITEM_ID_FIELD": "asin"}, ["no column asin", "item_id:token", "--item_id_field"]),
        (AMAZON, {"ITEM_ID_FIELD": 5}, ["ITEM_ID_FIELD must be a text"]),
        ("item_id:token\tprice:float\na\t3\n", {}, ["none that looks like text", "--text_cols", "price"]),
        ("item_id:token\tv:float_seq\na\t3 4\n", {"text_cols": ["v"]}, ["holds vectors", "--vectors"]),
        ("item_id:token\ttitle:token\tbrand:token\na\tx\ty\tz\n", {}, ["line 2 has 4 columns, the header 3"]),
    ],
)
def test_what_cannot_be_read(text: str, settings: dict[str, object], words: list[str], tmp_path: Path) -> None:
    folder = _write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_texts(folder, "toy", Fields.of(settings))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_ids_need_no_text(tmp_path: Path) -> None:
    assert read_ids(_write(tmp_path, "item_id:token\tprice:float\na\t3\nb\t4\n"), "toy") == ["a", "b"]


def test_another_choice_of_columns_makes_the_file_anew(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shared / "cases" / "recbole" / "amazon_like", tmp_path / "amazon_like"))
    path = folder / "amazon_like.feat1LSA"

    def columns(*flags: str) -> tuple[list[str], str]:
        assert run_cli(main, [str(folder), "--encoder", "lsa", *flags]) == 0
        return json.loads(path.with_name(path.name + ".json").read_text())["text_cols"], capsys.readouterr().err

    made, said = columns()
    assert made == ["categories", "title", "brand"]
    assert "the text of an item is categories, title, brand of amazon_like.item" in said
    assert said.count("\n") == 1
    first = np.fromfile(path, np.float32)
    made, said = columns("--text_cols", "title")
    assert made == ["title"]
    assert "was made from categories, title, brand; it is made anew from title" in said
    assert not np.array_equal(np.fromfile(path, np.float32)[: len(first)], first)
    before = path.stat().st_mtime_ns
    assert columns() == (["title"], "")  # the choice is kept beside the features
    assert path.stat().st_mtime_ns == before
    (tmp_path / "my.yaml").write_text("text_cols: [brand, title]\nlearning_rate: 1e-3\n")
    assert columns("--config", str(tmp_path / "my.yaml"))[0] == ["brand", "title"]
    assert columns("--overwrite")[0] == ["categories", "title", "brand"]
    # other texts of the same columns are refused as before
    item = folder / "amazon_like.item"
    item.write_text(item.read_text().replace("lamp", "light"))
    with pytest.raises(UserError, match="its texts are others"):
        encode_dataset(folder, "amazon_like", encoder="lsa")


def test_property_file_names_the_fields(tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = shared / "cases" / "recbole"
    folder = Path(shutil.copytree(cases / "named", tmp_path / "named"))
    assert run_cli(main, [str(folder), "--encoder", "lsa"]) == 1
    assert "--item_id_field" in capsys.readouterr().err
    assert run_cli(main, [str(folder), "--encoder", "lsa", "--config", str(cases / "named.yaml")]) == 0
    assert run_cli(main, [str(folder), "--encoder", "lsa", "--item_id_field", "product"]) == 0
    texts = read_texts(folder, "named", Fields(item_id="product"))[1]
    assert texts[:2] == ["foldable lamp oak Alder", "steel chair soft Birch"]
    (tmp_path / "bad.yaml").write_text("a: [")
    for file in ("none.yaml", "bad.yaml"):
        assert run_cli(main, [str(folder), "--encoder", "lsa", "--config", str(tmp_path / file)]) == 1
        assert file in capsys.readouterr().err


def test_features_of_before_count_as_made_from_text(tmp_path: Path) -> None:
    rows = "".join(f"i{i}\tlamp number {i % 3} red\n" for i in range(9))
    folder = _write(tmp_path / "toy", "item_id:token\ttext:token_seq\n" + rows)
    path = encode_dataset(folder, "toy", encoder="lsa")
    beside = path.with_name(path.name + ".json")
    meta = json.loads(beside.read_text())
    del meta["text_cols"]
    beside.write_text(json.dumps(meta))
    before = path.stat().st_mtime_ns
    encode_dataset(folder, "toy", encoder="lsa")
    assert path.stat().st_mtime_ns == before
