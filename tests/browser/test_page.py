"""The page as a whole: accessibility, keyboard, narrow screens, colours, and the address it is served under."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.browser.test_compare import TEXTS, expect_done, start

pytestmark = pytest.mark.browser
GRAVE = ("serious", "critical")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.csv"
    path.write_text("text,label\n" + "".join(f"{text},positive\n" for text in TEXTS), encoding="utf-8")
    return path


def grave_findings(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in GRAVE]


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_comparison_is_accessible_and_fits_a_narrow_screen(page: Page, site: str, table: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(site)
    start(page, table)
    expect_done(page)
    for scheme, colour in (("light", "rgb(246, 247, 249)"), ("dark", "rgb(16, 19, 23)")):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("body")).to_have_css("background-color", colour)
        assert grave_findings(page) == [], scheme
        assert overflow(page) <= 0


def test_forms_are_accessible(page: Page, site: str) -> None:
    page.goto(f"{site}/#try")
    page.get_by_role("button", name="Keys").click()
    expect(page.get_by_label("Key with the scope admin")).to_be_visible()
    assert grave_findings(page) == []


def test_comparison_by_keyboard_alone(page: Page, site: str) -> None:
    page.goto(site)
    expect(page.get_by_text("ready", exact=True)).to_be_visible()

    def tab_to(role: str, name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.get_by_role(role, name=name, exact=True).evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {name}")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips to the content
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    tab_to("button", "Use these lines")
    page.keyboard.press("Enter")
    tab_to("button", "Compare")
    page.keyboard.press("Enter")
    expect_done(page)
    tab_to("button", "All rows as CSV")


def test_page_works_behind_a_path_prefix(page: Page, serve_site: Site, table: Path) -> None:
    page.goto(serve_site(root_path="/team/page") + "/team/page")
    start(page, table)
    expect_done(page)
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="The API")).to_be_visible()
    expect(page.locator(".opblock").first).to_be_visible()
