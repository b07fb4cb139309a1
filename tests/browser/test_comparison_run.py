"""The course of a comparison: stopped and continued, long files, overload, keys, and a service that goes away."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.security.key_file import create, revoke
from sparserve.service.settings import Settings
from tests.browser.conftest import Site
from tests.support.service.listening import listening
from tests.support.service.page_actions import (
    TEXTS,
    choose_file,
    compare,
    expect_done,
    press_compare,
    saved_csv,
    use_key,
    write_csv,
    write_lines,
)
from tests.support.tiny_bundles import TASK

pytestmark = pytest.mark.browser
COMPARE_PATH = f"**/v1/models/{TASK}/compare"
LONG_WAIT_MILLISECONDS = 10_000


def test_10000_rows_leave_the_page_usable(page: Page, site: str, tmp_path: Path) -> None:
    page.goto(site)
    compare(page, write_lines(tmp_path / "many.jsonl", 10_000))
    page.get_by_label("Search in the texts").fill("dull")
    page.get_by_role("link", name="Try").click()
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page.locator(".progress")).to_contain_text("10,000 of 10,000 rows", timeout=60_000)
    assert len(saved_csv(page, "All rows as CSV")) == 10_000


def test_stopped_run_continues_where_it_was(page: Page, site: str, tmp_path: Path) -> None:
    page.goto(site)
    held: list[Route] = []
    page.route(COMPARE_PATH, lambda route: held.append(route) if not held else route.continue_())
    compare(page, write_lines(tmp_path / "rows.jsonl", 50))
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="Continue").click()
    expect_done(page)
    assert len(saved_csv(page, "All rows as CSV")) == 50


def test_overload_is_waited_for_as_the_answer_says(page: Page, serve_site: Site, table: Path) -> None:
    page.clock.install()
    page.goto(serve_site(anonymous_rate=4))  # three requests of the page and one comparison a minute
    compare(page, table)
    expect(page.get_by_text(re.compile(r"Trying again in 1\d s"))).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    first = {"status": 429, "headers": {"Retry-After": "1"}, "json": {"detail": "the queue is full"}}
    answers = iter([first])
    page.route(COMPARE_PATH, lambda route: answer(route, next(answers, None)))
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("the queue is full. Trying again in 1 s.")).to_be_visible()
    page.clock.fast_forward(1000)
    expect(page.get_by_text(re.compile(r"Trying again in 1\d s"))).to_be_visible()  # the service's own limit again


def answer(route: Route, response: dict[str, object] | None) -> None:
    if response is None:
        route.continue_()
    else:
        route.fulfill(**response)


def test_revoked_key_is_asked_for_again(page: Page, serve_site: Site, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first, second = (create(keys, name, frozenset({"classify"})) for name in ("first", "second"))
    site = serve_site(keys_file=keys)
    page.goto(site)
    expect(page.get_by_text("needs a key")).to_be_visible()
    use_key(page, first)
    held: list[Route] = []
    page.route(COMPARE_PATH, lambda route: held.append(route) if not held else route.continue_())
    compare(page, write_lines(tmp_path / "rows.jsonl", 20))
    expect(page.get_by_text("0 of 20 rows")).to_be_visible()
    revoke(keys, "first")
    while page.request.get(f"{site}/info", headers={"X-Api-Key": first}).ok:  # the service reads the file every second
        page.wait_for_timeout(50)
    held[0].continue_()
    expect(page.get_by_text("this API key is not valid")).to_be_visible()
    use_key(page, second)
    expect_done(page)
    assert first not in page.content() and second not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_service_that_goes_away_is_waited_for(page: Page, rival_store: Store, table: Path) -> None:
    settings = Settings(store=rival_store.root, threads=1)
    page.clock.install()
    with listening(create_app(settings)) as address:
        page.goto(f"http://{address}")
        choose_file(page, table)
        expect(page.get_by_text("texts.csv")).to_be_visible()
    press_compare(page)
    expect(page.get_by_text(re.compile("does not answer.* Trying again in"))).to_be_visible()
    expect(page.locator("header").get_by_text("does not answer")).to_be_visible()
    expect(page.get_by_text("The page keeps trying.")).to_be_visible()
    with listening(create_app(settings), port=int(address.rpartition(":")[2])):
        page.clock.fast_forward(LONG_WAIT_MILLISECONDS)
        expect_done(page)
        expect(page.locator("header").get_by_text("ready", exact=True)).to_be_visible()
        assert len(saved_csv(page, "All rows as CSV")) == len(TEXTS)


def test_refused_texts_are_left_out_with_the_reason(page: Page, serve_site: Site, tmp_path: Path) -> None:
    texts = [*TEXTS[:12], "good " * 50, *TEXTS[12:20]]
    page.goto(serve_site(max_characters=100))
    compare(page, write_csv(tmp_path / "texts.csv", ("text",), texts))
    expect_done(page)
    expect(page.get_by_text("Refused: 1 row; the first, row 13")).to_contain_text("250 characters, the limit is 100")
    assert len(saved_csv(page, "All rows as CSV")) == 20
