"""Actions of a user on the pages, and readings of what they show."""

import csv
import json
from itertools import product
from pathlib import Path
from typing import Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.tiny_bundles import WORDS

TEXTS: Final = [" ".join(words) for words in product(WORDS[4:12], repeat=2)]
LABELS: Final = ["positive" if "good" in text or "fun" in text else "negative" for text in TEXTS]
GRAVE: Final = ("serious", "critical")
COMPARISON_MILLISECONDS: Final = 30_000


def write_csv(path: Path, headings: tuple[str, ...], *columns: list[str]) -> Path:
    """Write a CSV file with these columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([headings, *zip(*columns, strict=True)])
    return path


def write_lines(path: Path, count: int) -> Path:
    """Write a JSON-lines file of so many distinct texts with labels."""
    rows = ({"text": f"{TEXTS[row % len(TEXTS)]} {row}", "label": LABELS[row % len(LABELS)]} for row in range(count))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def choose_file(page: Page, path: Path) -> None:
    page.get_by_label("Drop a CSV, TSV or JSON-lines file here").set_input_files(path)


def press_compare(page: Page) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()


def compare(page: Page, path: Path) -> None:
    """Compare the variants that the page proposes on a file."""
    choose_file(page, path)
    press_compare(page)


def expect_done(page: Page) -> None:
    expect(page.get_by_text("Done.", exact=True)).to_be_visible(timeout=COMPARISON_MILLISECONDS)


def drop(page: Page, path: Path) -> None:
    """Drag a file over the form and drop it."""
    area = page.locator(".drop")
    box = area.bounding_box()
    assert box is not None
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})


def tile(page: Page, title: str, part: str = "dd") -> str:
    """Return the figure of a tile, or its note with the part `dd.note`."""
    return page.locator(".tile", has_text=title).locator(part).first.inner_text().replace("\u00a0", " ")


def saved_csv(page: Page, button: str) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()))


def use_key(page: Page, key: str) -> None:
    page.get_by_label("Key with the scope classify").fill(key)
    page.get_by_role("button", name="Use keys").click()
    expect(page.locator("header").get_by_text("ready", exact=True)).to_be_visible()


def grave_findings(page: Page, *rules: str) -> list[str]:
    """Return axe-core's serious and critical findings, by some of its rules or by all."""
    only = {"runOnly": list(rules)} if rules else {}
    found = Axe().run(page, options={"resultTypes": ["violations"], **only}).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in GRAVE]


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width
