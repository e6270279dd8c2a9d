"""The page in a real browser: pointer, keyboard, phone width."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_unisrec.serving import load
from tests.conftest import N_ITEMS

pytest.importorskip("fastapi", reason="NO PAGE TEST: the extra serve is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="NO PAGE TEST: the extra serve is not installed")
playwright_api = pytest.importorskip("playwright.sync_api", reason="NO PAGE TEST: the extra test is not installed")

from recbole_unisrec.serving import service  # noqa: E402
from tests.serving.test_service import TOKEN, WordEncoder  # noqa: E402

expect = playwright_api.expect
expect.set_options(timeout=30_000)  # a machine may have other things to do
SHOTS = os.environ.get("PAGE_SHOTS")  # a folder, to look at what the browser shows


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[tuple[str, Any]]:
    """A server in a thread."""
    rec = load(folder)
    rec.texts.encoder = WordEncoder()  # type: ignore[assignment]
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service.create_app(rec, **options), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", rec
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    listener.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with playwright_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        except playwright_api.Error as error:
            pytest.skip(f"NO PAGE TEST: no browser could be started ({str(error).splitlines()[0]}); install chromium")
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, folders: dict[str, Path]) -> Iterator[Any]:
    with serving(folders["inductive"]) as (url, rec):
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        found = context.new_page()
        errors: list[str] = []
        found.on("pageerror", lambda error: errors.append(str(error)))
        found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        found.rec = rec
        found.goto(url)
        found.wait_for_selector("#answer li")
        yield found
        assert errors == []
        context.close()


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def recommended(page: Any) -> list[str]:
    return page.locator("#answer > li .name .soft").all_inner_texts()


def wait_for_answer(page: Any, n: int) -> None:
    expect(page.locator("#status")).to_contain_text(f"After {n} ")


def test_search_click_see_why_and_place_a_new_item(page: Any) -> None:
    assert f"{N_ITEMS} items of ring" in page.inner_text("#about")
    assert page.inner_text("#status") == "The most popular items."
    page.fill("#q", "NUMBER 17")
    expect(page.locator("#found button")).to_have_count(1)
    page.click("#found button")
    wait_for_answer(page, 1)
    assert recommended(page) == page.rec.recommend(["item-17"]).ids
    page.fill("#q", "item-18")
    expect(page.locator("#found .soft").first).to_have_text("item-18")
    page.click("#found button")
    wait_for_answer(page, 2)
    wanted = page.rec.recommend(["item-17", "item-18"])
    assert recommended(page) == wanted.ids
    page.click("#answer > li:first-child button:has-text('Why?')")
    page.wait_for_selector(".why .bars")
    numbers = [
        float(text)
        for text in page.locator("#answer > li:first-child .bars").first.locator(".number").all_inner_texts()
    ]
    why = page.rec.explain(["item-17", "item-18"], wanted.ids[0])
    assert numbers == pytest.approx([weight for *_, weight in why.history], abs=1e-3)
    page.fill("#text", "a thing that nobody has seen")
    page.click("#try")
    page.wait_for_selector("#placed li")
    place = page.rec.preview("a thing that nobody has seen", ["item-17", "item-18"], k=5)
    assert f"at rank {place.rank} of {N_ITEMS + 1}" in page.inner_text("#placed")
    shoot(page, "wide")
    # a recommendation joins the history, and what is removed leaves it
    page.click("#answer > li:first-child .name")
    wait_for_answer(page, 3)
    page.click("#history li:first-child button")
    wait_for_answer(page, 2)
    assert recommended(page) == page.rec.recommend(["item-18", wanted.ids[0]]).ids
    page.click("#clear")
    expect(page.locator("#status")).to_have_text("The most popular items.")


def test_with_the_keyboard_alone(page: Any) -> None:
    page.focus("#q")
    page.keyboard.type("number 2")
    page.keyboard.press("Enter")
    wait_for_answer(page, 1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait_for_answer(page, 2)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "q"
    # everything that can be clicked is reached by tabulator, in the order of the page
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.id || document.activeElement.textContent"
            )
        )
        if stops[-1] == "try":
            break
    assert any(stop.startswith("Remove thing") for stop in stops)
    assert any(stop.startswith("Why thing") for stop in stops)
    assert stops.index("text") == len(stops) - 2
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    why = page.locator("#answer > li:nth-child(2) button:has-text('Why?')")
    why.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer > li:nth-child(2) .why")
    assert why.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert page.locator(".why").count() == 0


def test_at_phone_width(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.rec.add_items([{"item_id": "long" * 20, "text": "x", "title": "wideword" * 30}])
    page.fill("#q", "wideword")
    expect(page.locator("#found .soft").first).to_contain_text("longlong")
    page.keyboard.press("Enter")
    wait_for_answer(page, 1)
    page.click("#answer > li:first-child button:has-text('Why?')")
    page.wait_for_selector(".why .bars")
    shoot(page, "phone")
    found = page.locator("#found").bounding_box()
    assert found["height"] <= 16 * 16  # a long list does not push the answer far down
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for box in page.locator("button:visible").all():
        assert box.bounding_box()["height"] >= 36


def test_titles_are_text_not_markup(page: Any) -> None:
    bad = "<img src=x onerror='document.title=\"harmed\"'><b>bold</b>"
    page.rec.add_items([{"item_id": "<i>id</i>", "text": "x", "title": bad}])
    page.fill("#q", "onerror")
    expect(page.locator("#found .soft").first).to_have_text("<i>id</i>")
    page.click("#found button")
    wait_for_answer(page, 1)
    assert page.inner_text("#history .name") == bad
    assert page.locator("main img, main b, main i:not(.track i)").count() == 0
    assert page.title() == "Recommendations"


def test_the_page_asks_for_the_token(browser: Any, folders: dict[str, Path]) -> None:
    with serving(folders["inductive"], token=TOKEN) as (url, _):
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#login:visible")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#answer li")
        assert page.locator("#login:visible").count() == 0
        assert page.inner_text("#error") == ""
        page.close()


def test_a_service_that_is_gone_is_said(browser: Any, folders: dict[str, Path]) -> None:
    with serving(folders["inductive"]) as (url, _):
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#answer li")
    page.fill("#q", "thing")
    error = page.locator("#error")
    expect(error).to_have_text("The service does not answer.")
    page.mouse.wheel(0, 5000)
    expect(error).to_be_in_viewport()
    page.close()


def test_nothing_found_and_nothing_left(page: Any) -> None:
    page.fill("#q", "no such thing")
    expect(page.locator("#found")).to_have_text("No title holds these words.")
    page.rec.remove_items([f"item-{i}" for i in range(N_ITEMS) if i != 17])
    page.fill("#q", "17")
    expect(page.locator("#found button")).to_have_count(1)
    page.click("#found button")
    expect(page.locator("#status")).to_have_text("Nothing is left to recommend.")
    assert page.locator("#answer li").count() == 0


def test_the_page_of_the_interface(page: Any) -> None:
    page.goto(page.url + "docs")
    expect(page.locator("section")).to_have_count(9)
    text = page.inner_text("#paths")
    for shown in ("POST /recommend", "GET /similar", '"history": [string', "(without: 10)", "application/json"):
        assert shown in text
    shoot(page, "docs")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
