"""The page as a whole: accessibility, keyboard, narrow screens, colours, and the address it is served under."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.support.service.page_actions import compare, expect_done, grave_findings, overflow

pytestmark = pytest.mark.browser


def test_comparison_is_accessible_and_fits_a_narrow_screen(page: Page, site: str, table: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(site)
    compare(page, table)
    expect_done(page)
    assert grave_findings(page) == []
    assert overflow(page) <= 0
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(16, 19, 23)")
    assert grave_findings(page, "color-contrast") == []


def test_forms_are_accessible(page: Page, site: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site}/#try")
    page.get_by_role("button", name="Keys").click()
    expect(page.get_by_label("Key with the scope admin")).to_be_visible()
    page.get_by_role("button", name="Classify").click()
    expect(page.locator(".result")).to_have_count(3)
    assert grave_findings(page) == []


def test_comparison_by_keyboard_alone(page: Page, site: str) -> None:
    page.goto(site)
    expect(page.get_by_text("ready", exact=True)).to_be_visible()

    def tab_to(selector: str, name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText") == name and page.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"Tab does not reach {name}")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips to the content
    tab_to("summary", "Or paste texts")
    page.keyboard.press("Enter")
    tab_to("button", "Use these lines")
    page.keyboard.press("Enter")
    tab_to("button", "Compare")
    page.keyboard.press("Enter")
    expect_done(page)
    tab_to("button", "All rows as CSV")


def test_page_works_behind_a_path_prefix(page: Page, serve_site: Site, table: Path) -> None:
    page.goto(serve_site(root_path="/team/page") + "/team/page")
    compare(page, table)
    expect_done(page)
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="The API")).to_be_visible()
    expect(page.locator(".opblock").first).to_be_visible()
