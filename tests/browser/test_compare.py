"""Comparison of two variants on the user's own texts."""

import csv
import json
import re
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.scores import mcnemar_p
from sparserve.service.app import create_app
from sparserve.service.experiments.statistics import RunningAgreement
from sparserve.service.security.key_file import create, revoke
from sparserve.service.settings import Settings
from tests.browser.conftest import Site
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK, WORDS, graph, publish

pytestmark = pytest.mark.browser
TEXTS = [" ".join(words) for words in product(WORDS[4:12], repeat=2)]
LABELS = ["positive" if "good" in text or "fun" in text else "negative" for text in TEXTS]
MARKUP = "<img src=x onerror=alert(1)>"
TEXT_PATH = f"**/v1/models/{TASK}/compare"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled CSV file."""
    path = tmp_path_factory.mktemp("data") / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(TEXTS, LABELS, strict=True)])
    return path


def write_lines(path: Path, count: int) -> Path:
    """Write a JSON-lines file of so many distinct texts."""
    rows = ({"text": f"{TEXTS[row % len(TEXTS)]} {row}", "label": LABELS[row % len(LABELS)]} for row in range(count))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def start(page: Page, path: Path) -> None:
    page.get_by_label("Drop a CSV, TSV or JSON-lines file here").set_input_files(path)
    page.get_by_role("button", name="Compare", exact=True).click()


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


def expect_done(page: Page) -> None:
    expect(page.get_by_text("Done.", exact=True)).to_be_visible(timeout=30_000)


def tile(page: Page, title: str) -> str:
    return page.locator(".tile", has_text=title).locator("dd").first.inner_text().replace("\u00a0", " ")


def saved_csv(page: Page, button: str) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()))


def shown_interval(hits: int, total: int) -> str:
    low, high = RunningAgreement(inputs=total, agreed=hits).interval()
    return f"{100 * hits / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def test_compare_shows_the_figures_of_the_rows_that_it_saves(page: Page, site: str, table: Path) -> None:
    page.goto(site)
    start(page, table)
    expect_done(page)
    rows = saved_csv(page, "All rows as CSV")
    assert [row["text"] for row in rows] == TEXTS and [row["true label"] for row in rows] == LABELS
    agreed = [row["dense"] == row["rival"] for row in rows]
    right = {name: [row[name] == row["true label"] for row in rows] for name in ("dense", "rival")}
    assert 0 < sum(agreed) < len(rows)
    assert tile(page, "Same prediction") == shown_interval(sum(agreed), len(rows))
    for name in ("dense", "rival"):
        assert tile(page, f"Accuracy of {name}") == shown_interval(sum(right[name]), len(rows))
    pairs = list(zip(right["dense"], right["rival"], strict=True))
    p = mcnemar_p(pairs.count((True, False)), pairs.count((False, True)))
    assert tile(page, "McNemar") == ("< 0.0001" if p < 0.0001 else f"{p:.4f}")
    saved = {
        (row["figure"], row["variant"]): float(row["value"] or "nan") for row in saved_csv(page, "Figures as CSV")[1:]
    }
    assert saved["agreement", "rival"] == sum(agreed) / len(rows)
    assert saved["p50 seconds", "dense"] > 0 and saved["median tokens", ""] == 4
    negatives = [row["dense"] for row in rows].count("negative")
    assert saved["predictions of negative", "dense"] == negatives
    expect(page.get_by_role("table", name="Predictions of each label")).to_contain_text(f"{negatives} (")
    expect(page.get_by_role("img", name="Distribution of the latency")).to_be_visible()


def test_disagreements_are_sorted_searched_and_turned_by_page(page: Page, site: str, table: Path) -> None:
    page.goto(site)
    start(page, table)
    expect_done(page)
    rows = saved_csv(page, "These rows as CSV")
    differences = [float(row["difference"]) for row in rows]
    assert len(rows) > 20 and differences == sorted(differences, reverse=True)
    shown = page.get_by_role("table", name="Disagreements").locator("tbody tr")
    expect(shown).to_have_count(20)
    expect(shown.first.locator("td").first).to_have_text(rows[0]["row"])
    page.get_by_role("button", name="Next").click()
    expect(shown.first.locator("td").first).to_have_text(rows[20]["row"])
    page.get_by_label("Sort by").select_option("file")
    page.get_by_label("Search in the texts").fill("dull")
    found = [row["row"] for row in rows if "dull" in row["text"]]
    expect(shown).to_have_count(min(len(found), 20))
    expect(shown.first.locator("td").first).to_have_text(min(found, key=int))
    page.get_by_label("Rows to show").select_option("lost")
    lost = [row for row in rows if "dull" in row["text"] and row["dense"] == row["true label"]]
    expect(page.get_by_text(f"{len(lost)} rows, page 1")).to_be_visible()


def test_dropped_file_with_markup_is_shown_as_text(page: Page, serve_site: Site, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    labels = ("10", MARKUP, "9")
    for seed, variant in enumerate(("dense", "rival"), start=1):
        publish(store, variant=variant, labels=labels, model=graph(len(labels), seed=seed))
    path = tmp_path / f"{MARKUP}.jsonl"
    rows = ({"text": text, MARKUP: "", "label": MARKUP} for text in [*TEXTS, MARKUP])
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    page.goto(serve_site(store=store.root))
    drop(page, path)
    expect(page.get_by_role("status").get_by_text(path.name)).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect_done(page)
    expect(page.get_by_role("table", name="Disagreements")).to_contain_text(MARKUP)
    assert page.locator("main img").count() == 0
    saved = saved_csv(page, "All rows as CSV")
    assert saved[-1]["text"] == MARKUP and len({row["dense"] for row in saved}) > 1
    for row in saved:
        scores = {label: float(row[f"dense {label}"]) for label in labels}
        assert max(scores, key=scores.__getitem__) == row["dense"]


def test_address_that_names_nothing_shows_the_first_section(page: Page, site: str, table: Path) -> None:
    page.goto(f"{site}/#constructor")
    expect(page.get_by_role("heading", name="Dense and compressed")).to_be_visible()
    page.goto(f"{site}/#compare?reference=rival&text=0&label=0.5")
    expect(page.get_by_label("Reference")).to_have_value("rival")
    start(page, table)
    expect_done(page)


def test_link_holds_the_settings_and_no_texts(page: Page, site: str, tmp_path: Path) -> None:
    path = tmp_path / "two.tsv"
    path.write_text("good film\tgood fun\tpositive\nbad film\tdull film\tnegative\n" * 2, encoding="utf-8")
    page.goto(f"{site}/#compare?task={TASK}&reference=rival&candidate=dense&text=2&pair=0&label=3")
    start(page, path)
    expect_done(page)
    assert page.get_by_label("Reference").input_value() == "rival"
    assert [row["text"] for row in saved_csv(page, "All rows as CSV")] == 2 * ["good fun", "dull film"]
    link = page.get_by_role("link", name="Link to these settings").get_attribute("href")
    assert link == page.url.removeprefix(f"{site}/")
    assert link == f"#compare?task={TASK}&reference=rival&candidate=dense&text=2&pair=0&label=3"


def test_pasted_arabic_and_german_have_their_direction(page: Page, site: str) -> None:
    page.goto(site)
    page.get_by_text("Or paste texts").click()
    arabic, german = "هذا فيلم جميل جدا good", "Größe und Übermut bad"
    page.get_by_label("Texts, one per line").fill(f"{arabic}\n{german}\n" + "\n".join(TEXTS))
    page.get_by_role("button", name="Use these lines").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect_done(page)
    assert [row["text"] for row in saved_csv(page, "All rows as CSV")][:2] == [arabic, german]
    page.goto(f"{site}/#try")
    page.get_by_label("Texts, one per line").fill(f"{arabic}\n{german}")
    page.get_by_role("button", name="Classify").click()
    texts = page.locator(".result .text")
    expect(texts).to_have_count(2)
    directions = [texts.nth(place).evaluate("element => getComputedStyle(element).direction") for place in range(2)]
    assert directions == ["rtl", "ltr"]


def test_10000_rows_leave_the_page_usable(page: Page, site: str, tmp_path: Path) -> None:
    page.goto(site)
    start(page, write_lines(tmp_path / "many.jsonl", 10_000))
    page.get_by_label("Search in the texts").fill("dull")
    page.get_by_role("link", name="Try").click()
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page.locator(".progress")).to_contain_text("10,000 of 10,000 rows", timeout=60_000)
    assert len(saved_csv(page, "All rows as CSV")) == 10_000


def test_stopped_run_continues_where_it_was(page: Page, site: str, tmp_path: Path) -> None:
    page.goto(site)
    held: list[Route] = []
    page.route(TEXT_PATH, lambda route: held.append(route) if not held else route.continue_())
    start(page, write_lines(tmp_path / "rows.jsonl", 50))
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="Continue").click()
    expect_done(page)
    assert len(saved_csv(page, "All rows as CSV")) == 50


def test_overload_is_waited_for_as_the_answer_says(page: Page, serve_site: Site, table: Path) -> None:
    page.goto(serve_site(anonymous_rate=4))  # three requests of the page and one comparison a minute
    start(page, table)
    expect(page.get_by_text(re.compile(r"Trying again in 1\d s"))).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    first = {"status": 429, "headers": {"Retry-After": "1"}, "json": {"detail": "the queue is full"}}
    answers = iter([first])
    page.unroute_all()
    page.route(TEXT_PATH, lambda route: answer(route, next(answers, None)))
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("the queue is full Trying again in 1 s.")).to_be_visible()
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
    page.get_by_label("Key with the scope classify").fill(first)
    page.get_by_role("button", name="Use keys").click()
    expect(page.get_by_text("ready", exact=True)).to_be_visible()
    held: list[Route] = []
    page.route(TEXT_PATH, lambda route: held.append(route) if not held else route.continue_())
    start(page, write_lines(tmp_path / "rows.jsonl", 20))
    expect(page.get_by_text("0 of 20 rows")).to_be_visible()
    revoke(keys, "first")
    while page.request.get(f"{site}/info", headers={"X-Api-Key": first}).ok:  # the service reads the file every second
        page.wait_for_timeout(100)
    held[0].continue_()
    expect(page.get_by_text("this API key is not valid")).to_be_visible()
    page.get_by_label("Key with the scope classify").fill(second)
    page.get_by_role("button", name="Use keys").click()
    expect_done(page)
    assert first not in page.content() and second not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_service_that_goes_away_is_waited_for(page: Page, rival_store: Store, table: Path) -> None:
    settings = Settings(store=rival_store.root, threads=1)
    with listening(create_app(settings)) as address:
        page.goto(f"http://{address}")
        page.get_by_label("Drop a CSV, TSV or JSON-lines file here").set_input_files(table)
        expect(page.get_by_text("texts.csv")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text(re.compile("does not answer.* Trying again in"))).to_be_visible()
    with listening(create_app(settings), port=int(address.rpartition(":")[2])):
        expect_done(page)
        assert len(saved_csv(page, "All rows as CSV")) == len(TEXTS)


def test_refused_texts_are_left_out_with_the_reason(page: Page, serve_site: Site, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    texts = [*TEXTS[:12], "good " * 50, *TEXTS[12:20]]
    path.write_text("text\n" + "\n".join(texts) + "\n", encoding="utf-8")
    page.goto(serve_site(max_characters=100))
    start(page, path)
    expect_done(page)
    expect(page.get_by_text("1 rows were refused; the first, row 13")).to_contain_text(
        "250 characters, the limit is 100"
    )
    assert len(saved_csv(page, "All rows as CSV")) == 20
