"""Who may ask the service what: pages of other sites, kinds of content, sizes of headers; and what each answer carries."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="the extra test is not installed")

from fastapi.testclient import TestClient

from recbole_unisrec.serving import load, service
from recbole_unisrec.serving.gate import LOCAL_HOSTS
from recbole_unisrec.serving.observe import CSP, start_access_log
from tests.conftest import N_ITEMS
from tests.serving.test_service import HERE, JSON, TOKEN, WordEncoder

ITEM = b'{"items": [{"item_id": "from-elsewhere", "text": "x"}]}'
GONE = b'{"item_ids": ["item-1"]}'


@pytest.fixture
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    rec = load(folders["inductive"])
    rec.texts.encoder = WordEncoder()  # type: ignore[assignment]
    app = service.create_app(rec, origins=["https://shop.example"])
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as found:
        found.rec = rec  # type: ignore[attr-defined]
        yield found


@pytest.mark.parametrize(("path", "body"), [("/items", ITEM), ("/items/remove", GONE)])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),  # a script of another site, without a content type
        ({"origin": "https://evil.example", **JSON}, 403),
        ({"origin": "null", **JSON}, 403),
        ({"origin": "http://127.0.0.1:9000", **JSON}, 403),  # another port is another site
        ({"origin": "http://127.0.0.1:8000.evil.example", **JSON}, 403),
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "text/plain;application/json"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"origin": "http://127.0.0.1:8000", **JSON}, 200),
        ({"origin": "https://shop.example", **JSON}, 200),
    ],
)
def test_only_own_pages_and_programs_change_items(
    client: TestClient, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    before = client.rec.snapshot  # type: ignore[attr-defined]
    reply = client.post(path, content=body, headers=headers)
    if status == 200:
        assert reply.status_code in (200, 201)
        return
    assert reply.status_code == status
    assert client.get("/health").json()["n_items"] == N_ITEMS
    assert client.rec.snapshot is before  # type: ignore[attr-defined]


def test_the_test_client_is_no_host_of_a_service(folders: dict[str, Path]) -> None:
    assert "testserver" not in LOCAL_HOSTS
    with TestClient(service.create_app(load(folders["inductive"]))) as client:
        assert client.get("/health").status_code == 400


def test_a_foreign_page_with_the_token_is_refused_too(folders: dict[str, Path]) -> None:
    with TestClient(service.create_app(load(folders["inductive"]), token=TOKEN), base_url="https://shop") as client:
        given = {"authorization": f"Bearer {TOKEN}", **JSON}
        assert client.post("/recommend", content=b"{}", headers=given).status_code == 200
        assert client.post("/recommend", content=b"{}", headers={**given, "origin": "https://shop"}).status_code == 200
        assert client.post("/recommend", content=b"{}", headers={**given, "origin": "https://other"}).status_code == 403
        assert client.get("/ready").status_code == 200
        assert client.get("/metrics").status_code == 401


def test_headers_and_addresses_are_bounded(client: TestClient) -> None:
    assert client.get("/health", headers={"x-long": "a" * 100_000}).status_code == 431
    assert client.get("/health", headers={f"x-{i}": "a" * 100 for i in range(200)}).status_code == 431
    assert client.get("/items", params={"q": "a" * 9000}).status_code == 414
    assert client.get("/health", headers={"x-long": "a" * 8000}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200), ("/docs", 200), ("/openapi.json", 200), ("/health", 200), ("/ready", 200), ("/metrics", 200),
        ("/items", 200), ("/redoc", 404), ("/docs/oauth2-redirect", 404), ("/nothing", 404), ("/recommend", 405),
    ],
)  # fmt: skip
def test_the_rules_of_the_page_hold_everywhere(client: TestClient, path: str, status: int) -> None:
    reply = client.get(path)
    assert reply.status_code == status
    assert reply.headers["content-security-policy"] == CSP
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"
    if "html" in reply.headers["content-type"]:
        assert "https://" not in reply.text.replace("http://www.w3.org", "")


def test_answers_of_the_gate_follow_them_too(client: TestClient) -> None:
    for reply in (client.get("/", headers={"host": "evil.example"}), client.post("/recommend", content=b"{}")):
        assert reply.headers["content-security-policy"] == CSP
        assert reply.headers["x-request-id"]


def test_an_error_of_our_own_is_no_page_without_rules(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(service, "search_items", fail)
    with caplog.at_level(logging.ERROR, logger="recbole_unisrec.serving"):
        reply = client.get("/items", headers={"x-request-id": "abc"})
    assert reply.status_code == 500
    assert reply.headers["content-security-policy"] == CSP
    assert "secret" not in reply.text
    assert "request id abc" in reply.json()["detail"]
    assert "request abc failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


# --- ids, log, metrics


def test_request_ids(client: TestClient) -> None:
    assert client.get("/health", headers={"x-request-id": "shop-17:a.b"}).headers["x-request-id"] == "shop-17:a.b"
    first, second = (client.get("/health").headers["x-request-id"] for _ in range(2))
    assert first != second
    for bad in ("a" * 65, "a b", 'a"b', ""):
        given = client.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert given != bad
        assert len(given) == 32


def test_the_access_log(client: TestClient, tmp_path: Path) -> None:
    try:
        start_access_log(str(tmp_path / "access"))
        client.get("/similar?item=item-4", headers={"x-request-id": "one"})
        client.post("/recommend", content=b"{", headers=JSON)
        client.get("/health", headers={"host": "evil"})
        (tmp_path / "access").rename(tmp_path / "access.1")  # as logrotate does
        client.get("/health")
    finally:
        start_access_log("none")
    client.get("/health")
    lines = [json.loads(line) for line in (tmp_path / "access.1").read_text().splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/similar", 200), ("POST", "/recommend", 400), ("GET", "/health", 400),
    ]  # fmt: skip
    assert lines[0]["id"] == "one"
    assert set(lines[0]) == {"time", "id", "client", "method", "path", "status", "ms", "bytes"}
    assert "item-4" not in (tmp_path / "access.1").read_text()  # what was looked at is nobody's business
    assert lines[0]["bytes"] > 100
    assert len((tmp_path / "access").read_text().splitlines()) == 1


def values(client: TestClient) -> dict[str, float]:
    rows = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def test_metrics(client: TestClient) -> None:
    before = values(client)["unisrec_catalogue_version"]
    for _ in range(3):
        client.post("/recommend", json={"history": ["item-1"]})
    client.post("/recommend", content=b"{", headers=JSON)
    for i in range(5):
        client.get(f"/nothing/{i}")
    client.post("/items", json={"items": [{"item_id": f"n{i}", "text": "x"} for i in range(4)]})
    client.post("/items/remove", json={"item_ids": ["n1"]})
    found = values(client)
    assert found['unisrec_requests_total{method="POST",path="/recommend",status="200"}'] == 3
    assert found['unisrec_requests_total{method="POST",path="/recommend",status="400"}'] == 1
    assert found['unisrec_requests_total{method="GET",path="other",status="404"}'] == 5
    assert found['unisrec_request_seconds_count{path="/recommend"}'] == 4
    assert found["unisrec_items"] == N_ITEMS + 3
    assert found["unisrec_catalogue_version"] == before + 2
    assert found["unisrec_changed_items_total"] == 5
    assert found["unisrec_waiting_requests"] == 0


def test_ready_is_said_once_it_is_so(client: TestClient, folders: dict[str, Path]) -> None:
    assert client.get("/ready").json() == {"status": "ready"}
    outside = TestClient(service.create_app(load(folders["inductive"])), base_url=HERE)  # its start has not been run
    assert outside.get("/health").status_code == 200
    assert outside.get("/ready").status_code == 503


def test_a_full_catalogue(client: TestClient) -> None:
    client.rec.max_items = N_ITEMS + 1  # type: ignore[attr-defined]
    reply = client.post("/items", json={"items": [{"item_id": f"n{i}", "text": "x"} for i in range(2)]})
    assert reply.status_code == 409
    assert "--max_items" in reply.json()["detail"]
    assert client.get("/health").json()["n_items"] == N_ITEMS
