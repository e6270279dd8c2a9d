"""Saved models: flipped bytes, two writers, many changes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving import Recommender, load, locks
from recbole_unisrec.serving.catalogue import FREE_FROM
from recbole_unisrec.serving.recommender import FullError
from tests.conftest import N_ITEMS, WIDTH


def new(*ids: str, text: str = "text") -> list[dict[str, str]]:
    return [{"item_id": item, "text": f"{text} {item}"} for item in ids]


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32)


# --- checksums


def test_a_flipped_byte_anywhere_is_named(saved: Path) -> None:
    names = sorted(file.name for file in saved.iterdir())
    assert {"model.safetensors", "table.npy", "norms.npy", "features.npy", "items.parquet"} < set(names)
    for name in names:
        whole = (saved / name).read_bytes()
        for place in (len(whole) // 3, len(whole) - 2):
            changed = bytearray(whole)
            changed[place] ^= 1 if name != "config.json" else 0x02
            (saved / name).write_bytes(changed)
            with pytest.raises(UserError, match=name.replace(".", r"\.")):
                load(saved)
        (saved / name).write_bytes(whole)
    assert len(load(saved)) == N_ITEMS


def test_the_vectors_come_out_as_they_went_in(rec: Recommender, tmp_path: Path) -> None:
    first = load(rec.save(tmp_path / "a"))
    second = load(first.save(tmp_path / "b"))
    shared = load(tmp_path / "b", share=True)
    for one in (first, second, shared):
        assert torch.equal(one.snapshot.candidates, rec.snapshot.candidates)
        assert torch.equal(one.snapshot.norms, rec.snapshot.norms)
    histories = [[f"item-{i}", f"item-{i + 1}"] for i in range(N_ITEMS - 1)]
    assert shared.recommend(histories) == second.recommend(histories)
    if shared.meta.form == "inductive":
        shared.add_items(new("late"), vectors(1))  # into a copy in memory
        assert shared.snapshot.row("late") == N_ITEMS
        assert load(tmp_path / "b").snapshot.row("late") is None


# --- two writers


def test_what_two_programs_changed_is_all_there(saved: Path) -> None:
    one, other = load(saved), load(saved)
    one.add_items(new("a", "both"), vectors(2))
    one.remove_items(["item-1", "item-2"])
    other.add_items(new("b"), vectors(1, 1))
    other.remove_items(["item-2", "item-3"])
    other.save(saved)
    one.save(saved)
    found = load(saved)
    assert len(found) == N_ITEMS + 3 - 3
    for item in ("a", "b", "both"):
        assert found.snapshot.row(item) is not None
    for item in ("item-1", "item-2", "item-3"):
        assert found.snapshot.row(item) is None
    kept = found.snapshot.features_of([found.snapshot.row("a")])
    assert kept is not None
    assert np.array_equal(kept[0].numpy(), vectors(2)[0])
    # and once more from the same two, which have not read the folder since
    other.add_items(new("c"), vectors(1, 2))
    other.save(saved)
    one.add_items(new("d"), vectors(1, 3))
    one.save(saved)
    assert all(load(saved).snapshot.row(item) is not None for item in "abcd")


def test_an_item_that_both_changed_is_said(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = load(saved), load(saved)
    other.add_items(new("item-5", "x", text="theirs"), vectors(2), replace=True)
    other.save(saved)
    one.add_items(new("item-5", text="mine"), vectors(1, 1), replace=True)
    with caplog.at_level("WARNING", logger="recbole_unisrec.serving"):
        one.save(saved)
    assert "1 items had been changed there too, for example 'item-5'" in caplog.text
    found = load(saved)
    assert found.snapshot.items["text"][found.snapshot.row("item-5")] == "mine item-5"
    assert found.snapshot.row("x") is not None


def test_many_writers_at_once_lose_nothing(saved: Path) -> None:
    problems: list[BaseException] = []

    def write(number: int) -> None:
        try:
            rec = load(saved)
            rec.add_items(new(f"w{number}"), vectors(1, number))
            rec.save(saved)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = load(saved)
    assert all(found.snapshot.row(f"w{number}") is not None for number in range(8))
    assert json.loads((saved / "config.json").read_text())["revision"] >= 9


def test_a_writer_that_does_not_finish_is_an_error(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.writing(saved):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    rec = load(saved)  # reading waits for nobody
    with pytest.raises(UserError, match="another program has been writing"):
        rec.save(saved)
    done.set()
    thread.join()
    rec.save(saved)


def test_a_replaced_folder_is_read_whole(saved: Path, folders: dict[str, Path]) -> None:
    """One thread replaces the folder by two models in turn; a reader gets one of them, and never an error."""
    two = [load(folders["inductive"]), load(folders["ours"])]
    due = {rec.meta.form: rec.recommend(["item-1", "item-2"]).ids for rec in two}
    stop, problems, seen = threading.Event(), [], set()

    def read() -> None:
        while not stop.is_set():
            try:
                rec = load(saved)
                seen.add(rec.meta.form)
                assert rec.recommend(["item-1", "item-2"]).ids == due[rec.meta.form]
            except BaseException as error:
                problems.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for i in range(40):
        two[i % 2].save(saved)
    stop.set()
    for thread in readers:
        thread.join()
    assert problems == []
    assert seen == {"inductive", "transductive"}


# --- many changes


def test_rows_of_replaced_items_are_freed(saved: Path) -> None:
    rec, rng = load(saved), np.random.default_rng(0)
    ids = [f"r{i}" for i in range(100)]
    first = {item: rec.snapshot.row(item) for item in ("item-0", "item-1", "item-2")}
    popularity = dict(zip(rec.snapshot.items["item_id"], rec.snapshot.items["popularity"], strict=True))
    rows = []
    for _ in range(60):
        rec.add_items(new(*ids), rng.standard_normal((100, WIDTH)).astype(np.float32), replace=True)
        rows.append(rec.snapshot.n)
    assert len(rec) == N_ITEMS + 100
    assert max(rows) <= N_ITEMS + 200 + FREE_FROM + 100
    assert len(rec._catalogue._candidates._rows) < 2 * max(rows) + 2048
    # ids, vectors, features and titles still belong together, in memory and when saved
    x = vectors(1, 9)
    rec.add_items(new("r7"), x, replace=True)
    rec.remove_items(["r8", "item-3"])
    for one in (rec, load(rec.save(saved))):
        row = one.snapshot.row("r7")
        assert one.snapshot.ids([row]) == ["r7"]
        kept = one.snapshot.features_of([row])
        assert kept is not None
        assert np.array_equal(kept.numpy(), x)
        due = one.network.scaled(one.network.adapt(torch.from_numpy(x)))[0]
        assert torch.allclose(one.snapshot.candidates[row], due, atol=1e-5)
        assert one.snapshot.row("r8") is None
        assert all(one.snapshot.titles([one.snapshot.row(i)]) == [f"thing number {i[5:]}"] for i in first)
        best, total = max(popularity.values()), sum(popularity.values()) - popularity["item-3"]
        assert one.recommend([], k=1).scores[0] == pytest.approx(best / total)
    assert {item: rec.snapshot.row(item) for item in first} == first  # rows of the folder stay


def test_rows_are_freed_beside_an_index(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="the extra index is not installed")
    from recbole_unisrec.serving import catalogue, changing

    monkeypatch.setattr(catalogue, "FREE_FROM", 50)
    monkeypatch.setattr(changing, "TAIL", 400)
    rec, rng = load(saved), np.random.default_rng(0)
    rec.add_items(new(*(f"n{i}" for i in range(600))), vectors(600))
    rec.build_index(target=1.0)
    for step in range(40):
        ids = [f"n{i}" for i in range(step, step + 60)]
        rec.add_items(new(*ids), rng.standard_normal((60, WIDTH)).astype(np.float32), replace=True)
        assert len(set(rec.recommend(["item-1", "n599"], k=5).ids)) == 5
    assert rec.snapshot.n < 2 * (600 + N_ITEMS)
    assert len(rec) == 600 + N_ITEMS
    exact = load(rec.save(saved), index="exact")
    assert exact.recommend(["item-1", "n599"], k=5).ids == rec.recommend(["item-1", "n599"], k=5).ids


def test_a_replaced_item_keeps_its_popularity(saved: Path) -> None:
    rec = load(saved)
    before = rec.recommend([], k=N_ITEMS)
    rec.add_items(new("item-4"), vectors(1), replace=True)
    after = rec.recommend([], k=N_ITEMS)
    assert sorted(after.scores) == pytest.approx(sorted(before.scores))
    scores = [dict(zip(answer.ids, answer.scores, strict=True))["item-4"] for answer in (before, after)]
    assert scores[0] == pytest.approx(scores[1])


def test_a_full_catalogue_says_so(saved: Path) -> None:
    rec = load(saved)
    rec.max_items = N_ITEMS + 2
    rec.add_items(new("a"), vectors(1))
    with pytest.raises(FullError, match=rf"{N_ITEMS + 3} items, and {N_ITEMS + 2} are allowed"):
        rec.add_items(new("b", "c"), vectors(2))
    rec.add_items(new("a", "b"), vectors(2), replace=True)
    rec.remove_items(["item-1"])
    rec.add_items(new("c"), vectors(1))
    assert len(rec) == N_ITEMS + 2


def test_other_titles_are_shown_and_found(saved: Path) -> None:
    from recbole_unisrec.serving.snapshot import search_items

    rec = load(saved)
    before, version = rec.recommend(["item-1"], k=3), rec.snapshot.version
    rec.set_titles({"item-4": "Ein Name", "nobody": "x", "item-5": ""})
    assert rec.snapshot.version > version
    assert rec.recommend(["item-1"], k=3).scores == before.scores
    again = load(rec.save(saved))
    for one in (rec, again):
        rows = [one.snapshot.row("item-4"), one.snapshot.row("item-5")]
        assert one.snapshot.titles(rows) == ["Ein Name", "thing number 5"]
        # by the new title, and by the words of the text as before
        assert [one.snapshot.ids([row]) for row in search_items(one.snapshot, "EIN name", 5)] == [["item-4"]]
        assert one.snapshot.row("item-4") in search_items(one.snapshot, "number 4", N_ITEMS)
