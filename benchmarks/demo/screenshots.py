"""The pictures of the page in the documentation, and the seconds that it takes to compare a labelled file.

`python -m benchmarks.demo.screenshots --store store --data validation.jsonl`
"""

import argparse
import shutil
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.service_process import ROOT, running

PICTURES = ROOT / "docs" / "how-to" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW = {"width": 960, "height": 1000}
COMPARISON_MILLISECONDS = 600_000


def compare(page: Page, data: Path) -> float:
    """Compare the variants that the page proposes on a file, and return the seconds from the press of the button."""
    page.get_by_label("Drop a CSV, TSV or JSON-lines file here").set_input_files(data)
    page.get_by_role("button", name="Compare", exact=True).click()
    began = time.monotonic()
    page.get_by_text("Done.", exact=True).wait_for(timeout=COMPARISON_MILLISECONDS)
    return time.monotonic() - began


def take(page: Page, name: str, selector: str) -> None:
    page.locator(selector).first.scroll_into_view_if_needed()
    page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"no browser: install one of {', '.join(BROWSERS)}")
    PICTURES.mkdir(exist_ok=True)
    with running(arguments.store, "--log-level", "warning", warnings="default") as service, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)
        page.goto(f"http://127.0.0.1:{service.port}")
        seconds = compare(page, arguments.data)
        print(f"compared {arguments.data.name} in {seconds:.1f} s")
        for title, value in zip(
            *(page.locator(f".tile {tag}").all_inner_texts() for tag in ("dt", "dd:first-of-type")), strict=True
        ):
            print(f"  {title}: {value}")
        take(page, "compare", "header")
        page.locator("#labels-title").evaluate("title => title.scrollIntoView()")
        page.screenshot(path=PICTURES / "compare-labels.png", animations="disabled")
        page.get_by_role("link", name="Report").click()
        page.get_by_role("img").first.wait_for()
        page.locator("#trade-off-title").evaluate("title => title.scrollIntoView()")
        page.screenshot(path=PICTURES / "report.png", animations="disabled")
        browser.close()


if __name__ == "__main__":
    main()
