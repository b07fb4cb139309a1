"""Comparison of two variants on the user's own texts: the figures, the rows, and the files that are saved."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.scores import mcnemar_p
from sparserve.service.experiments.statistics import RunningAgreement
from tests.browser.conftest import Site
from tests.support.service.page_actions import (
    LABELS,
    TEXTS,
    choose_file,
    compare,
    drop,
    expect_done,
    press_compare,
    saved_csv,
    tile,
    write_csv,
)
from tests.support.tiny_bundles import MAX_LENGTH, TASK, graph, publish

pytestmark = pytest.mark.browser
MARKUP = "<img src=x onerror=alert(1)>"


def shown_interval(hits: int, total: int) -> str:
    low, high = RunningAgreement(labelled=total, agreed=hits).interval()
    return f"{100 * hits / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def test_compare_shows_the_figures_of_the_rows_that_it_saves(page: Page, site: str, table: Path) -> None:
    page.goto(site)
    compare(page, table)
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
    compare(page, table)
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
    press_compare(page)
    expect_done(page)
    expect(page.get_by_role("table", name="Disagreements")).to_contain_text(MARKUP)
    assert page.locator("main img").count() == 0
    saved = saved_csv(page, "All rows as CSV")
    assert saved[-1]["text"] == MARKUP and len({row["dense"] for row in saved}) > 1
    for row in saved:
        scores = {label: float(row[f"dense {label}"]) for label in labels}
        assert max(scores, key=scores.__getitem__) == row["dense"]


def test_long_texts_are_cut_or_answered_in_windows(page: Page, site: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "long.csv", ("text",), [" ".join(["good film"] * MAX_LENGTH), *TEXTS[:5]])
    page.goto(site)
    choose_file(page, path)
    treatment = page.get_by_label(f"Texts of more than {MAX_LENGTH} tokens")
    for chosen, note in (("truncate", "1 truncated"), ("windows", "0 truncated; 1 in windows, 3 at most")):
        treatment.select_option(chosen)
        press_compare(page)
        expect_done(page)
        expect(page.locator(".tile", has_text="Tokens of a text")).to_contain_text(note)
    assert [row["windows"] for row in saved_csv(page, "All rows as CSV")] == ["3", *"11111"]
    assert "overlong=windows" in page.url
    page.get_by_role("link", name="Try").click()
    page.get_by_label("Texts, one per line").fill("good film " * MAX_LENGTH)
    page.get_by_label(f"Texts of more than {MAX_LENGTH} tokens").select_option("windows")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_text("tokens, in 3 windows")).to_be_visible()


def test_address_that_names_nothing_shows_the_first_section(page: Page, site: str, table: Path) -> None:
    page.goto(f"{site}/#constructor")
    expect(page.get_by_role("heading", name="Dense and compressed")).to_be_visible()
    page.goto(f"{site}/#compare?reference=rival&overlong=never&text=0&label=0.5")
    expect(page.get_by_label("Reference")).to_have_value("rival")
    compare(page, table)
    expect_done(page)


def test_link_holds_the_settings_and_no_texts(page: Page, site: str, tmp_path: Path) -> None:
    path = tmp_path / "two.tsv"
    path.write_text("good film\tgood fun\tpositive\nbad film\tdull film\tnegative\n" * 2, encoding="utf-8")
    settings = f"#compare?task={TASK}&reference=rival&candidate=dense&overlong=windows&text=2&pair=0&label=3"
    page.goto(f"{site}/{settings}")
    compare(page, path)
    expect_done(page)
    assert page.get_by_label("Reference").input_value() == "rival"
    assert [row["text"] for row in saved_csv(page, "All rows as CSV")] == 2 * ["good fun", "dull film"]
    link = page.get_by_role("link", name="Link to these settings").get_attribute("href")
    assert link == page.url.removeprefix(f"{site}/") == settings


def test_pasted_arabic_and_german_have_their_direction(page: Page, site: str) -> None:
    page.goto(site)
    page.get_by_text("Or paste texts").click()
    arabic, german = "هذا فيلم جميل جدا good", "Größe und Übermut bad"
    page.get_by_label("Texts, one per line").fill(f"{arabic}\n{german}\n" + "\n".join(TEXTS[:8]))
    page.get_by_role("button", name="Use these lines").click()
    press_compare(page)
    expect_done(page)
    assert [row["text"] for row in saved_csv(page, "All rows as CSV")][:2] == [arabic, german]
    page.goto(f"{site}/#try")
    page.get_by_label("Texts, one per line").fill(f"{arabic}\n{german}")
    page.get_by_role("button", name="Classify").click()
    texts = page.locator(".result .text")
    expect(texts).to_have_count(2)
    directions = [texts.nth(place).evaluate("element => getComputedStyle(element).direction") for place in range(2)]
    assert directions == ["rtl", "ltr"]
