"""``unisrec update`` under a service that is asked all the while: no request fails, and the new model takes over."""

import asyncio
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="the extra test is not installed")

import httpx

from recbole_unisrec.serving import load, service
from recbole_unisrec.serving.served import Following, Served
from recbole_unisrec.shop import start, update
from tests.shop.test_start import FILES, N_ITEMS, QUICK, WORDS, run, write_shop


def test_the_service_takes_an_update_over_without_a_break(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path)
    products = ["Article;Title", *(f"P{n:02d};{WORDS[n]} thing {WORDS[(n + 1) % N_ITEMS]}" for n in range(N_ITEMS))]
    (tmp_path / "products.csv").write_text("\n".join(products) + "\n")
    status, _, err = run(capsys, start.start_command, *FILES, *QUICK)
    assert status == 0, err
    folder = (tmp_path / "myshop" / "model").resolve()
    write_shop(tmp_path, first_user=30, n_users=50, day=12, name="new.csv")
    (tmp_path / "products.csv").write_text("\n".join([*products, "NEW;red silk clock"]) + "\n")
    served = Served(load(folder), following=Following(folder, seconds=0.05))
    app = service.create_app(served, hosts=None)
    wrong, versions, sizes = [], [], set()
    over, taken = threading.Event(), threading.Event()

    async def ask(client):
        while not over.is_set():
            reply = await client.post("/recommend", json={"history": ["P01", "P02"], "k": 30})
            if reply.status_code != 200:
                wrong.append((reply.status_code, reply.text))
                continue
            body = reply.json()
            versions.append(body["version"])
            ids = [item["item_id"] for item in body["items"]]
            sizes.add((body["version"] > versions[0], len(ids), len(set(ids)), "NEW" in ids))
            if "NEW" in ids:
                taken.set()
            await asyncio.sleep(0.005)

    async def crowd():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            await asyncio.gather(*(ask(client) for _ in range(4)))

    asking = threading.Thread(target=lambda: asyncio.run(crowd()))
    asking.start()
    try:
        deadline = time.monotonic() + 60
        while not versions and time.monotonic() < deadline:
            time.sleep(0.05)
        before = len(versions)
        status, out, err = run(
            capsys, update.update_command, "--orders", "new.csv", "--products", "products.csv", "--epochs", 1
        )
        assert status == 0, err
        assert "1 new products" in out
        assert taken.wait(60)
        time.sleep(0.2)
    finally:
        over.set()
        asking.join(60)
    assert not wrong
    assert before > 0
    assert len(versions) > before + 10
    # each answer is of the old catalogue or of the new one, whole
    assert sizes == {(False, N_ITEMS - 2, N_ITEMS - 2, False), (True, N_ITEMS - 1, N_ITEMS - 1, True)}
