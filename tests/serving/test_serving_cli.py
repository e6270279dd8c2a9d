"""The commands as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from recbole_unisrec.cli import main
from recbole_unisrec.serving import load
from tests.conftest import N_ITEMS


@pytest.fixture
def model(folders: dict[str, Path]) -> str:
    return str(folders["inductive"])


def answers(model: str, histories: list[list[str]], k: int = 3) -> list[list[str]]:
    return [answer.ids for answer in load(model).recommend(histories, k=k)]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("train", "save", "recommend", "similar", "add-items", "serve"))


def test_a_checkpoint_becomes_a_folder(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["save", "--model", str(checkpoints["transductive"]), "--out", str(tmp_path / "m")]) == 0
    assert f"UniSRec transductive, {N_ITEMS} items" in capsys.readouterr().out
    assert len(load(tmp_path / "m")) == N_ITEMS


def test_one_history_gives_a_table_with_titles(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--model", model, "--history", "item-1,item-2", "--k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (wanted,) = answers(model, [["item-1", "item-2"]])
    assert [line.split()[2] for line in lines] == wanted
    assert [line.split(maxsplit=3)[3] for line in lines] == [f"thing number {item[5:]}" for item in wanted]
    assert main(["recommend", "--model", model, "--history", "item-1,item-2", "--k", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == wanted
    assert main(["similar", "--model", model, "--item", "item-4", "--k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_of_histories(
    model: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recbole_unisrec.serving.files.USERS", 4)  # several blocks
    histories = [[f"item-{(s + t) % N_ITEMS}" for t in range(1 + s % 4)] for s in range(10)]
    histories[6] = ["item-1", "nothing"]
    histories[7] = []
    frame = pl.DataFrame({"user_id": [f"u{i}" for i in range(10)], "history": histories})
    source, out = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    if kind == "csv":
        frame.with_columns(pl.col("history").list.join(" ")).write_csv(source)
    elif kind == "jsonl":
        frame.write_ndjson(source)
    else:
        frame.write_parquet(source)
    assert main(["recommend", "--model", model, "--input", str(source), "--out", str(out), "--k", "3"]) == 0
    captured = capsys.readouterr()
    assert "10 users" in captured.out
    assert "skipped 1 unknown items" in captured.err
    assert "1 users have no known item" in captured.err
    if kind == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        found = {row["user_id"]: [item["item_id"] for item in row["items"]] for row in rows}
    else:
        table = pl.read_csv(out) if kind == "csv" else pl.read_parquet(out)
        assert table.columns == ["user_id", "rank", "item_id", "title", "score"]
        assert table["rank"].to_list() == [1, 2, 3] * 10
        found = {user[0]: part["item_id"].to_list() for user, part in table.group_by("user_id", maintain_order=True)}
    histories[6] = ["item-1"]
    assert found == dict(zip(frame["user_id"].to_list(), answers(model, histories), strict=True))
    assert sorted(file.name for file in tmp_path.iterdir()) == [source.name, out.name]


STRANGE = ["Mug, blue", "Pot 2 l", "ünï/κό\u2028ß", '["a"]', "a\u00a0b\x0bc", "-x"]


@pytest.fixture
def strange(folders: dict[str, Path], tmp_path: Path) -> str:
    """A model whose items have ids with commas, blanks, and ends of lines that are none."""
    import numpy as np

    rec = load(folders["inductive"])
    vectors = np.random.default_rng(0).standard_normal((len(STRANGE), 16)).astype(np.float32)
    rec.add_items([{"item_id": item, "text": f"strange {i}"} for i, item in enumerate(STRANGE)], vectors)
    return str(rec.save(tmp_path / "strange"))


def test_ids_may_be_any_text(strange: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (due,) = answers(strange, [STRANGE])
    command = ["recommend", "--model", strange, "--k", "3", "--json"]
    several = [part for item in STRANGE for part in (f"--history={item}",)]
    for given in (several, [f"--history={json.dumps(STRANGE)}"]):
        assert main([*command, *given]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["ids"] == due
        assert found["unknown"] == []
    for item in STRANGE[:3]:  # one id that has a comma, or none
        assert main([*command, "--history", item]) == 0
        assert json.loads(capsys.readouterr().out)["unknown"] == []
        assert main(["similar", "--model", strange, "--item", item, "--k", "2"]) == 0
        capsys.readouterr()
    assert main([*command, "--history", "item-1,item-2"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == answers(strange, [["item-1", "item-2"]])[0]
    # files of candidates
    (tmp_path / "some").write_text("\r\n".join(STRANGE))
    (tmp_path / "some.json").write_text(json.dumps(STRANGE))
    for name in ("some", "some.json"):
        assert main([*command, "--history", "item-1", "--k", "9", "--candidates", str(tmp_path / name)]) == 0
        assert sorted(json.loads(capsys.readouterr().out)["ids"]) == sorted(STRANGE)
    (tmp_path / "some.json").write_text('{"a": 1}')
    assert main([*command, "--history", "item-1", "--candidates", str(tmp_path / "some.json")]) == 1
    assert "no list of texts" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_histories_of_any_ids(strange: str, tmp_path: Path, kind: str) -> None:
    histories = [STRANGE, STRANGE[:2], ["item-1", "item-2"], []]
    frame = pl.DataFrame({"user_id": ["a, b", "ü", "c", "d"], "history": histories})
    source, out = tmp_path / f"in.{kind}", tmp_path / "out.parquet"
    if kind == "csv":
        cells = [json.dumps(history) for history in histories]
        frame.with_columns(history=pl.Series(cells)).write_csv(source)
    elif kind == "jsonl":
        frame.write_ndjson(source)
    else:
        frame.write_parquet(source)
    assert (
        main(["recommend", "--model", strange, "--input", str(source), "--out", str(out), "--k", "3", "--strict"]) == 0
    )
    found = pl.read_parquet(out).group_by("user_id", maintain_order=True).agg("item_id")
    assert found["user_id"].to_list() == ["a, b", "ü", "c", "d"]
    assert found["item_id"].to_list() == answers(strange, histories)


def test_orders_are_put_in_the_order_of_time(model: str, tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(
        "user_id,item_id,timestamp\n"
        "ann,item-4,2024-01-03\nbob,item-9,2024-01-01\nann,item-2,2024-01-01\nann,item-3,2024-01-02\n"
    )
    (tmp_path / "only").write_text("item-5\nitem-6\nitem-10\n")
    out = tmp_path / "out.csv"
    arguments = ["recommend", "--model", model, "--orders", str(tmp_path / "orders.csv"), "--out", str(out), "--k", "3"]
    assert main(arguments) == 0
    found = {user[0]: part["item_id"].to_list() for user, part in pl.read_csv(out).group_by("user_id")}
    ann, bob = answers(model, [["item-2", "item-3", "item-4"], ["item-9"]])
    assert found == {"ann": ann, "bob": bob}
    assert main([*arguments, "--candidates", str(tmp_path / "only"), "--no_time"]) == 0
    assert set(pl.read_csv(out)["item_id"]) == {"item-5", "item-6", "item-10"}


def test_new_items(
    folders: dict[str, Path], checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import numpy as np

    from dataset_tools.features import TextEncoder

    class Fake:
        name, width, pooling, max_length, prompt = "fake", 16, "CLS", 512, ""

        def encode(self, texts: list[str]) -> np.ndarray:
            rec = load(folders["inductive"])
            known = dict(zip(rec.snapshot.items["text"], rec.snapshot.features[0], strict=True))
            return np.stack([known.get(text, np.full(16, len(text), np.float32)) for text in texts])

    monkeypatch.setattr(TextEncoder, "load", lambda *_: Fake())
    (tmp_path / "new.csv").write_text("item_id,title,brand\nitem-1,thing number 1,\nnew-1,A new thing,Acme\n")
    model, items = tmp_path / "m", str(tmp_path / "new.csv")
    arguments = ["add-items", "--items", items, "--text_cols", "title", "brand", "--model"]
    assert main([*arguments, str(checkpoints["inductive"])]) == 1
    assert "give --out" in capsys.readouterr().err
    load(folders["inductive"]).save(model)
    assert main([*arguments, str(model)]) == 1
    assert "exist already" in capsys.readouterr().err
    assert main([*arguments, str(model), "--skip_existing"]) == 0
    assert f"1 items added, {N_ITEMS + 1} in all" in capsys.readouterr().out
    rec = load(model)
    assert rec.meta.encoder["encoder"] == "fake"
    row = rec.snapshot.row("new-1")
    assert rec.snapshot.items["text"][row] == "A new thing. Acme."
    assert rec.snapshot.titles([row]) == ["A new thing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "--history", "nothing,item-1", "--strict"], "'nothing'"),
        (["recommend", "--input", "absent.csv", "--out", "o.csv"], "absent.csv"),
        (["recommend", "--input", "absent.csv", "--out", "o.txt"], "--out FILE"),
        (["recommend", "--input", "absent.csv"], "--out FILE"),
        (["recommend", "--history", "item-1", "--out", "o.csv"], "--out goes with"),
        (["recommend", "--history", "item-1", "--candidates", "absent"], "cannot read absent"),
        (["recommend", "--input", "wide.csv", "--out", "o.csv", "--history_col", "basket"], "basket"),
        (["recommend", "--input", "wide.csv", "--out", "o.csv", "--strict"], "history of 'u1'"),
        (["recommend", "--input", "wide.csv", "--out", "short/o.csv"], "cannot write"),
        (["similar", "--item", "nothing"], "'nothing'"),
        (["serve", "--host", "0.0.0.0"], "token is needed"),
        (["serve", "--token_file", "absent"], "cannot read the token"),
        (["serve", "--token_file", "short"], "8 printable"),
        (["serve", "--port", "70000"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNISREC_TOKEN", raising=False)
    (tmp_path / "wide.csv").write_text("user_id,history\nu1,nothing\n")
    (tmp_path / "short").write_text("secret\n")
    if arguments[0] == "serve":
        pytest.importorskip("fastapi", reason="the extra serve is not installed")
    assert main([arguments[0], "--model", model, *arguments[1:]]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "o.csv").exists()
