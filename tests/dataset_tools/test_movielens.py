import hashlib
import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import pytest

from dataset_tools import movielens
from dataset_tools.common import UserError, run_cli
from dataset_tools.features import read_texts
from dataset_tools.movielens import find_source, prepare_ml100k

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"


def _source(folder: Path, inter: str, item: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ml-100k.inter").write_text(INTER + inter)
    (folder / "ml-100k.item").write_text(ITEM + item)
    return folder


MOVIES = "1\tToy Story\t1995\tAnimation Comedy\n2\tSolaris\t\tDrama\n3\tNobody\t1999\tWar\n"


def test_order_ties_and_texts(tmp_path: Path) -> None:
    # user 9 comes first; its rows of time 5 keep their order; movie 3 is never rated
    inter = "9\t2\t3\t5\n8\t1\t3\t1\n9\t1\t3\t5\n9\t2\t1\t4\n"
    folder = prepare_ml100k(tmp_path / "out", _source(tmp_path / "source", inter, MOVIES))
    assert (folder / "ml-100k.inter").read_text() == (
        "user_id:token\titem_id:token\ttimestamp:float\n9\t2\t4\n9\t2\t5\n9\t1\t5\n8\t1\t1\n"
    )
    assert (folder / "ml-100k.item").read_text() == (
        "item_id:token\ttext:token_seq\n2\tSolaris. Drama.\n1\tToy Story. 1995. Animation Comedy.\n"
    )
    assert (folder / "ml-100k.text").read_bytes() == (folder / "ml-100k.item").read_bytes()
    assert (folder / "ml-100k.user2index").read_text() == "9\t0\n8\t1\n"
    assert (folder / "ml-100k.item2index").read_text() == "2\t0\n1\t1\n"


def test_recboles_own_copy(tmp_path: Path) -> None:
    if importlib.util.find_spec("recbole") is None:
        pytest.skip("RecBole is not installed")
    folder = prepare_ml100k(tmp_path / "a")
    record = json.loads((folder / "ml-100k.json").read_text())
    assert [record["counts"][what] for what in ("interactions", "users", "items")] == [100000, 943, 1682]
    source = find_source() / "ml-100k.inter"
    assert record["sources"][0] == {
        "file": "ml-100k.inter",
        "bytes": source.stat().st_size,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    # the same rows as the source, users in one piece, times never falling
    rows = [line.split("\t") for line in (folder / "ml-100k.inter").read_text().splitlines()[1:]]
    raw = [line.split("\t") for line in source.read_text().splitlines()[1:]]
    assert sorted(map(tuple, rows)) == sorted((user, item, time) for user, item, _, time in raw)
    seen: set[str] = set()
    for (user, _, time), (next_user, _, next_time) in pairwise(rows):
        if user == next_user:
            assert float(time) <= float(next_time)
        else:
            assert next_user not in seen
            seen.add(user)
    assert len(read_texts(folder, "ml-100k")[0]) == 1682
    again = prepare_ml100k(tmp_path / "b")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


@pytest.mark.parametrize(
    ("inter", "item", "words"),
    [
        ("1\t7\t3\t5\n", MOVIES, "1 rated items are not in"),
        ("1\t1\t3\tnoon\n", MOVIES, "line 2 of ml-100k.inter cannot be read .timestamp:float is not a number"),
        ("1\t1\t3\n", MOVIES, "line 2 of ml-100k.inter cannot be read .3 columns where 4 are due"),
        ("", MOVIES, "holds no rows"),
    ],
)
def test_bad_source_changes_nothing(inter: str, item: str, words: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_ml100k(out, _source(tmp_path / "good", "9\t2\t3\t5\n", MOVIES))
    before = {path.name: path.read_bytes() for path in (out / "ml-100k").iterdir()}
    with pytest.raises(UserError, match=words):
        prepare_ml100k(out, _source(tmp_path / "bad", inter, item), overwrite=True)
    assert {path.name: path.read_bytes() for path in (out / "ml-100k").iterdir()} == before
    assert [path.name for path in out.iterdir()] == ["ml-100k"]


def test_missing_column_is_named(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", "", MOVIES)
    (source / "ml-100k.inter").write_text("user_id:token\titem_id:token\n1\t1\n")
    with pytest.raises(UserError, match="no column timestamp; its columns are user_id:token, item_id:token"):
        prepare_ml100k(tmp_path / "out", source)


def test_no_recbole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install recbole"):
        prepare_ml100k(tmp_path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _source(tmp_path / "source", "9\t2\t3\t5\n", MOVIES)
    command = ["--out", str(tmp_path / "out"), "--source", str(source)]
    assert run_cli(movielens.main, command) == 0
    assert "1 interactions, 1 users, 1 items" in capsys.readouterr().out
    assert run_cli(movielens.main, command) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    (tmp_path / "out" / "ml-100k" / "stale").write_text("x")
    assert run_cli(movielens.main, [*command, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "ml-100k" / "stale").exists()
