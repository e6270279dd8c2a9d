"""The HTTP service: answers, hostile requests, changes under load, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recbole_unisrec.serving import load
from tests.conftest import N_ITEMS

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="the extra test is not installed")

import httpx
from fastapi.testclient import TestClient

from recbole_unisrec.serving import batcher, schemas, service
from recbole_unisrec.serving.served import Served

ROOT = Path(__file__).resolve().parents[2]
HERE = "http://127.0.0.1:8000"
TOKEN = "correct horse battery".replace(" ", "-")


class WordEncoder:
    """Stands in for a language model: the vector of a text is drawn from its hash."""

    name, width, pooling = "words", 16, "CLS"

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(abs(hash(text))).standard_normal(16) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(-1, 16)


@pytest.fixture
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    rec = load(folders["inductive"])
    rec.texts.encoder = WordEncoder()  # type: ignore[assignment]
    with TestClient(service.create_app(rec), base_url=HERE, raise_server_exceptions=False) as found:
        found.rec = rec  # type: ignore[attr-defined]
        yield found


def test_recommendations_are_those_of_the_library(client: TestClient) -> None:
    reply = client.post("/recommend", json={"history": ["item-1", "item-2", "nothing"], "k": 4})
    assert reply.status_code == 200
    found, wanted = reply.json(), client.rec.recommend(["item-1", "item-2"], k=4)  # type: ignore[attr-defined]
    assert [item["item_id"] for item in found["items"]] == wanted.ids
    assert [item["title"] for item in found["items"]] == wanted.titles
    assert [item["score"] for item in found["items"]] == pytest.approx(wanted.scores, abs=1e-6)
    assert found["unknown"] == ["nothing"]
    assert client.post("/recommend", json={}).json()["basis"] == "popularity"
    assert client.post("/recommend", json={"history": ["nothing"], "strict": True}).status_code == 404
    some = client.post("/recommend", json={"history": ["item-1"], "candidates": ["item-3", "item-1"]}).json()
    assert [item["item_id"] for item in some["items"]] == ["item-3"]


def test_search_similar_explain_health(client: TestClient) -> None:
    assert client.get("/health").json()["n_items"] == N_ITEMS
    found = client.get("/items", params={"q": "NUMBER 2", "limit": 5}).json()["items"]
    assert found
    assert all("number 2" in item["title"] for item in found)
    assert client.get("/items", params={"q": "item-17"}).json()["items"][0]["item_id"] == "item-17"
    assert client.get("/items", params={"q": "no such words"}).json()["items"] == []
    similar = client.get("/similar", params={"item": "item-4", "k": 3}).json()
    assert len(similar["items"]) == 3
    why = client.post("/explain", json={"history": ["item-1", "item-2"], "item": "item-3"}).json()
    assert [part["item_id"] for part in why["history"]] == ["item-1", "item-2"]
    assert sum(part["weight"] for part in why["experts"]) == pytest.approx(why["score"], abs=1e-5)


def test_items_come_and_go(client: TestClient) -> None:
    new = {"items": [{"item_id": "caf\u00e9/../1", "text": "a new thing"}]}
    assert client.post("/items", json=new).status_code == 201
    assert client.post("/items", json=new).status_code == 409
    assert client.post("/items", json={**new, "replace": True}).json()["n_items"] == N_ITEMS + 1
    reply = client.post("/recommend", json={"history": ["item-1"], "k": 100}).json()
    assert "caf\u00e9/../1" in [item["item_id"] for item in reply["items"]]
    assert client.post("/recommend", json={"history": ["caf\u00e9/../1"]}).json()["basis"] == "history"
    assert client.get("/similar", params={"item": "caf\u00e9/../1"}).status_code == 200
    place = client.post("/preview", json={"text": "a new thing", "history": ["item-1"]}).json()
    assert place["similar"][0]["item_id"] == "caf\u00e9/../1"
    assert 1 <= place["rank"] <= N_ITEMS + 1
    assert client.post("/items/remove", json={"item_ids": ["caf\u00e9/../1"]}).json()["n_items"] == N_ITEMS
    assert client.post("/items/remove", json={"item_ids": ["caf\u00e9/../1"]}).status_code == 404


JSON = {"content-type": "application/json"}
HOSTILE: list[tuple[str, str, bytes | None, int]] = [
    ("POST", "/recommend", b"\xff\xfe{}", 400),
    ("POST", "/recommend", b'{"history": ["\\ud800"]}', 422),
    ("POST", "/recommend", b'{"history": "item-1"}', 422),
    ("POST", "/recommend", b'{"history": [1, 2]}', 422),
    ("POST", "/recommend", b'{"history": [null]}', 422),
    ("POST", "/recommend", b'{"history": {"a": "b"}}', 422),
    ("POST", "/recommend", b'{"history": [], "k": 0}', 422),
    ("POST", "/recommend", b'{"history": [], "k": "10"}', 422),
    ("POST", "/recommend", b'{"history": [], "k": 1e400}', 422),
    ("POST", "/recommend", b'{"history": [], "k": NaN}', 422),
    ("POST", "/recommend", b'{"history": [], "k": ' + b"9" * 6000 + b"}", 400),
    ("POST", "/recommend", b'{"history": [], "kk": 1}', 422),
    ("POST", "/recommend", b"[" * 200_000, 400),
    ("POST", "/recommend", b'{"history": [' + b",".join([b'"a"'] * 6000) + b"]}", 422),
    ("POST", "/recommend", b'{"history": ["' + b"a" * 600 + b'"]}', 422),
    ("POST", "/recommend", b"{" + b" " * 10_000_000 + b"}", 413),
    ("POST", "/recommend", b"", 422),
    ("POST", "/recommend", b"null", 422),
    ("POST", "/items", b'{"items": []}', 422),
    ("POST", "/items", b'{"items": [{"item_id": "a", "text": " \\n "}]}', 422),
    ("POST", "/items", b'{"items": [{"item_id": "", "text": "x"}]}', 422),
    ("POST", "/items", b'{"items": [{"item_id": "a", "text": "x"}, {"item_id": "a", "text": "x"}]}', 422),
    ("POST", "/explain", b'{"history": [], "item": "item-1"}', 422),
    ("POST", "/explain", b'{"history": ["nothing"], "item": "item-1"}', 404),
    ("POST", "/explain", b'{"history": ["item-1"], "item": "nothing"}', 404),
    ("POST", "/preview", b'{"text": ""}', 422),
    ("GET", "/items?q=%ff%fe", None, 200),
    ("GET", "/items?limit=1000000", None, 422),
    ("GET", "/items?limit=x", None, 422),
    ("GET", "/items?offset=3", None, 422),
    ("GET", "/similar?item=" + "a" * 600, None, 422),
    ("GET", "/similar?item=../../etc/passwd", None, 404),
    ("GET", "/../../etc/passwd", None, 404),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd", None, 404),
    ("GET", "/static/index.html", None, 404),
    ("GET", "/recommend", None, 405),
    ("DELETE", "/items", None, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_requests(client: TestClient, method: str, path: str, body: bytes | None, status: int) -> None:
    before = client.rec.snapshot  # type: ignore[attr-defined]
    reply = client.request(method, path, content=body, headers=JSON)
    assert reply.status_code == status, reply.text
    if status >= 400:
        detail = reply.json()["detail"]
        assert len(detail) < 500
        assert "Traceback" not in detail
    assert client.rec.snapshot is before  # type: ignore[attr-defined]
    assert client.get("/health").status_code == 200


def test_without_a_token_only_this_machine_is_a_host(client: TestClient) -> None:
    for host, status in (
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("evil.example", 400),
        ("", 400),
    ):
        assert client.get("/health", headers={"host": host}).status_code == status
    # a form of another site cannot send JSON without asking first
    plain = client.post("/recommend", content=b'{"history": []}', headers={"content-type": "text/plain"})
    assert plain.status_code == 415


def test_the_token(folders: dict[str, Path]) -> None:
    app = service.create_app(load(folders["inductive"]), token=TOKEN)
    with TestClient(app, base_url=HERE) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": TOKEN},
            {"authorization": b"Bearer \xff"},
        ):
            reply = client.post("/recommend", json={}, headers=headers)  # type: ignore[arg-type]
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert client.get("/docs", headers=headers).status_code == 401  # type: ignore[arg-type]
        good = {"authorization": f"Bearer {TOKEN}", "host": "shop.example"}
        assert client.post("/recommend", json={}, headers=good).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    reply = client.get("/")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "http://" not in reply.text
    assert "https://" not in reply.text


def test_a_model_without_text_takes_no_new_items(client: TestClient) -> None:
    client.rec.network.moe_adaptor = None  # type: ignore[attr-defined]
    assert client.get("/health").json()["reads_text"] is False
    reply = client.post("/items", json={"items": [{"item_id": "a", "text": "x"}]})
    assert reply.status_code == 400
    assert "has no text adaptor" in reply.json()["detail"]


def test_too_many_waiting_requests(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "WAITING", 2)

    async def crowd() -> list[object]:
        waiting = batcher.Batcher(Served(load(folders["inductive"])))
        asked = [asyncio.ensure_future(waiting.ask(schemas.RecommendBody(history=["item-1"]))) for _ in range(5)]
        await asyncio.sleep(0)
        worker = asyncio.ensure_future(waiting.work())
        done = await asyncio.gather(*asked, return_exceptions=True)
        worker.cancel()
        return done

    done = asyncio.run(crowd())
    assert [getattr(one, "status_code", 200) for one in done] == [200, 200, 503, 503, 503]


def test_a_failing_request_does_not_harm_its_neighbours(folders: dict[str, Path]) -> None:
    bodies = [
        schemas.RecommendBody(history=["item-1"]),
        schemas.RecommendBody(history=["nothing"], strict=True),
        schemas.RecommendBody(history=["item-2"], k=3),
        schemas.RecommendBody(history=["item-3"], candidates=["item-4"]),
    ]
    found = batcher.Batcher(Served(load(folders["inductive"])))._answer(bodies)
    assert getattr(found[1], "status_code", 0) == 404
    assert [len(answer.ids) for answer in (found[0], found[2], found[3])] == [10, 3, 1]  # type: ignore[union-attr]


def test_schemathesis(folders: dict[str, Path]) -> None:
    """Requests drawn from our own OpenAPI description: no 5xx, and answers as described."""
    schemathesis = pytest.importorskip("schemathesis", reason="the extra test is not installed")
    conformance = pytest.importorskip("schemathesis.specs.openapi.checks")
    from hypothesis import HealthCheck, given, settings

    rec = load(folders["inductive"])
    rec.texts.encoder = WordEncoder()  # type: ignore[assignment]
    app = service.create_app(rec, hosts=("testserver", "localhost", "127.0.0.1"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 9
    checks = [
        schemathesis.checks.not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_schema_conformance,
    ]
    random.seed(0)
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
        )
        def check(case: object) -> None:
            case.call_and_validate(checks=checks)  # type: ignore[attr-defined]

        check()


# --- a real server


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def server(folders: dict[str, Path], tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    """``unisrec serve`` as a process of its own."""
    model = load(folders["inductive"]).save(tmp_path / "model")
    port = free_port()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "import sys; from recbole_unisrec.cli import main; sys.exit(main())",
    ]
    arguments = ["serve", "--model", str(model), "--port", str(port), "--save_changes"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}/" in line
    yield f"http://127.0.0.1:{port}", process, model
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_served_model_under_fire_drains_and_saves(server: tuple[str, subprocess.Popen[str], Path]) -> None:
    url, process, model = server
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    # bytes that are no HTTP, a body that never comes, and one that is larger than it says
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(raw)
            connection.settimeout(60)
            try:
                answer = connection.recv(4096)
            except ConnectionResetError:
                answer = b""
            assert not answer or answer.startswith(b"HTTP/1.1 4")
    with socket.create_connection(address) as connection:  # goes away in the middle of its body
        connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    statuses: list[object] = []

    def ask(n: int) -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            for i in range(n):
                body = {"history": [f"item-{(i + j) % N_ITEMS}" for j in range(1 + i % 5)]}
                statuses.append(client.post("/recommend", json=body).status_code)

    threads = [threading.Thread(target=ask, args=(40,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    removed = httpx.post(f"{url}/items/remove", json={"item_ids": ["item-5"]}, timeout=120)
    for thread in threads:
        thread.join()
    assert removed.status_code == 200
    assert statuses == [200] * 160

    other = load(model)  # another program writes the folder meanwhile
    other.remove_items(["item-7"])
    other.save(model)

    # SIGTERM while a request is under way: its body is half sent; it is answered, then the process ends with 0
    with socket.create_connection(address, timeout=120) as connection:
        body = json.dumps({"history": ["item-1"]}).encode()
        head = f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:5])
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(body[5:])
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 200")
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["items"]) == 10
    assert process.wait(30) == 0
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(address, timeout=5)
    last = load(model)
    assert last.snapshot.row("item-5") is None  # --save_changes
    assert last.snapshot.row("item-7") is None
    assert len(last) == N_ITEMS - 2
