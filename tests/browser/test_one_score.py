"""A reranker on the page: pairs in the same order and correlations, and nowhere an accuracy."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.one_score import compare_scores, evaluate_scores, rank_correlation, same_order
from sparserve.models.report.builder import write_report
from tests.browser.conftest import Site
from tests.support.models.reports import measurement
from tests.support.service.page_actions import (
    TEXTS,
    choose_file,
    expect_done,
    grave_findings,
    press_compare,
    saved_csv,
    tile,
    write_csv,
)
from tests.support.tiny_bundles import TASK, graph, publish

pytestmark = pytest.mark.browser
RELEVANCE = [row * 7 % 5 for row in range(len(TEXTS))]


@pytest.fixture
def reranker_store(tmp_path: Path) -> Store:
    """`dense` and `rival` rerankers with their figures, and a report."""
    store = Store(tmp_path / "store")
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, size=60).astype(np.float64)
    queries = [f"query {row % 12}" for row in range(60)]
    reference, version = random.normal(size=60) + 2 * truth, None
    for seed, variant in enumerate(("dense", "rival"), start=1):
        scores = reference if variant == "dense" else reference + random.normal(scale=0.3, size=60)
        figures = evaluate_scores(scores, truth, queries=queries, bootstrap_samples=50)
        if version is not None:
            figures = compare_scores(
                figures, scores, reference, truth, sigmoid=True, reference_version=version, bootstrap_samples=50
            )
        bundle = publish(
            store,
            variant=variant,
            labels=("relevance",),
            inputs="pair",
            model=graph(1, seed=seed, scale=1.0),
            score_evaluation=figures,
            measurement=measurement(0.01 / seed),
        )
        version = version or bundle.manifest.version
    write_report(store, TASK)
    return store


def test_reranker_has_orders_and_correlations_and_no_accuracy(
    page: Page, serve_site: Site, reranker_store: Store, tmp_path: Path
) -> None:
    queries = [("good film", "bad film")[row % 2] for row in range(len(TEXTS))]
    path = write_csv(
        tmp_path / "pairs.csv", ("query", "passage", "label"), queries, TEXTS, [str(grade) for grade in RELEVANCE]
    )
    page.emulate_media(color_scheme="dark")
    page.goto(serve_site(store=reranker_store.root))
    choose_file(page, path)
    expect(page.get_by_label("True number")).to_have_value("2")
    press_compare(page)
    expect_done(page)
    rows = saved_csv(page, "All rows as CSV")
    scores = {name: np.array([float(row[f"{name} score"]) for row in rows]) for name in ("dense", "rival")}
    assert "agree" not in rows[0] and [int(row["true number"]) for row in rows] == RELEVANCE
    order = same_order(scores["rival"], scores["dense"])
    assert 0 < order < 1
    assert tile(page, "Pairs of rows in the same order").startswith(f"{100 * order:.1f} % [")
    for name, values in scores.items():
        correlation = rank_correlation(values, np.array(RELEVANCE, dtype=np.float64))
        assert tile(page, f"Spearman's correlation, {name}").startswith(f"{correlation:.3f} [")
    assert "queries: 2" in tile(page, "nDCG@10, dense", "dd.note")
    expect(page.get_by_role("heading", name="Labels")).to_have_count(0)
    saved = {(row["figure"], row["variant"]): row["value"] for row in saved_csv(page, "Figures as CSV")}
    assert float(saved["pairs in the same order", "rival"]) == pytest.approx(order, abs=1e-6)
    main = page.locator("main")
    expect(main).not_to_contain_text("accura", ignore_case=True, use_inner_text=True)
    page.get_by_role("link", name="Models").click()
    rival = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="rival"))
    expect(rival).to_contain_text("p = ")
    expect(page.get_by_role("columnheader", name="Same order as dense")).to_be_visible()
    expect(main).not_to_contain_text("accura", ignore_case=True)
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("img", name="Spearman's correlation against")).to_be_visible()
    expect(main).not_to_contain_text("accura", ignore_case=True)
    assert grave_findings(page) == []
    page.get_by_role("link", name="Try").click()
    page.get_by_label("Texts, one per line").fill("good film\tbad film")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator(".result").get_by_text("0.")).to_be_visible()
