"""Models, Report and Experiments, and the report as a file."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sparserve.models.bundle.store import Store
from sparserve.models.report.builder import write_report
from sparserve.service.security.key_file import create
from tests.browser.conftest import Site
from tests.support.models.reports import publish_variants
from tests.support.service.page_actions import grave_findings, use_key
from tests.support.tiny_bundles import TASK, graph, publish

pytestmark = pytest.mark.browser
POLL_MILLISECONDS = 2000


@pytest.fixture(scope="module")
def reported_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a report, and with markup in its labels and texts."""
    store = publish_variants(tmp_path_factory.mktemp("reported") / "store")
    write_report(store, TASK)
    return store


@pytest.fixture
def admin_key(tmp_path: Path) -> str:
    return create(tmp_path / "keys", "admin", frozenset({"classify", "admin"}))


def confirm(page: Page, title: str, consequence: str) -> None:
    page.get_by_role("button", name=title).click()
    dialog = page.get_by_role("dialog", name=title)
    expect(dialog).to_contain_text(consequence)
    dialog.get_by_role("button", name=title).click()
    expect(dialog).to_have_count(0)


def test_administrator_changes_models_after_the_consequence_is_named(
    page: Page, serve_site: Site, tmp_path: Path, admin_key: str
) -> None:
    store = Store(tmp_path / "store")
    old = publish(store, variant="dense").manifest.version
    os.utime(store.folder(TASK, "dense") / "manifest.json", (1000, 1000))
    new = publish(store, variant="dense", model=graph(seed=99)).manifest.version
    publish(store, variant="sparse90")
    publish(store, variant="broken", model=b"no graph")
    page.goto(serve_site(store=store.root, keys_file=tmp_path / "keys") + "/#models")
    use_key(page, admin_key)
    rows = page.get_by_role("table", name=f"Variants of {TASK}").get_by_role("row")
    dense, sparse, broken = (
        rows.filter(has=page.get_by_role("rowheader", name=name)) for name in ("dense", "sparse90", "broken")
    )
    expect(dense).to_contain_text(new)
    expect(broken).to_contain_text("refused")
    page.get_by_text("Change dense").click()
    confirm(page, "Roll dense back", f"the version published before {new}")
    expect(dense).to_contain_text(f"{old} pinned")
    page.get_by_role("button", name="Promote this version").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"answers with version {new} instead of {old}")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dense).to_contain_text(old)
    page.get_by_role("button", name="Promote this version").click()
    dialog.get_by_role("button", name=f"Promote {new} of dense").click()
    expect(dense).to_contain_text(f"{new} pinned")
    confirm(page, "Unpin dense", "follows the store again")
    expect(dense).not_to_contain_text("pinned")
    page.get_by_text("Change sparse90").click()
    confirm(page, "Make sparse90 the default", "instead of dense, at once")
    expect(sparse).to_contain_text("default")
    confirm(page, "Unload sparse90", "the service may no longer be ready")
    expect(sparse).to_contain_text("unloaded")
    confirm(page, "Load sparse90", "verified and warmed up")
    expect(sparse).to_contain_text("ready")
    assert grave_findings(page) == []


def test_models_without_an_admin_key_offers_no_changes(page: Page, serve_site: Site, tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "user", frozenset({"classify"}))
    page.goto(serve_site(keys_file=tmp_path / "keys") + "/#models")
    use_key(page, key)
    expect(page.get_by_role("rowheader", name="rival")).to_be_visible()
    expect(page.get_by_text("give a key with the scope admin")).to_be_visible()
    expect(page.get_by_text("Change dense")).to_have_count(0)


def test_report_has_the_figures_of_the_service(page: Page, serve_site: Site, reported_store: Store) -> None:
    site = serve_site(store=reported_store.root)
    page.goto(f"{site}/#report")
    report = page.request.get(f"{site}/v1/reports/{TASK}?format=json").json()
    expect(page.get_by_role("listitem")).to_have_text(report["findings"])
    pruned = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="sparse90-int8", exact=True))
    expect(pruned).to_contain_text("90.0\u00a0%")
    expect(pruned).to_contain_text("5.00\u00a0ms")
    expect(page.get_by_role("img", name="on the frontier: dense-int8")).to_be_visible()
    page.get_by_role("combobox", name="Cost").select_option("size")
    expect(page.get_by_role("img", name="Accuracy against size of the served file")).to_be_visible()
    expect(page.get_by_role("table", name="Zeros of the encoder of sparse90")).to_be_visible()
    expect(page.get_by_text("<b>posi|tive</b>").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Markdown").click()
    assert download.value.suggested_filename == f"{TASK}.md"
    assert grave_findings(page) == []


def test_report_as_a_file_shows_its_plots(page: Page, reported_store: Store) -> None:
    page.goto(reported_store.report_path(TASK, "html").as_uri(), timeout=60_000)
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    assert grave_findings(page) == []


def test_experiment_begins_is_watched_and_ends(page: Page, serve_site: Site, tmp_path: Path, admin_key: str) -> None:
    site = serve_site(keys_file=tmp_path / "keys", disagreements_texts=True)
    page.clock.install()
    page.goto(f"{site}/#experiments")
    use_key(page, admin_key)
    expect(page.get_by_text("No experiment is running.")).to_be_visible()
    page.get_by_label("Share of the requests").fill("100")
    page.get_by_label("Stop under this agreement").fill("1")
    page.get_by_role("button", name="Begin", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("the default still answers all of them")
    dialog.get_by_role("button", name="Begin with rival").click()
    expect(page.get_by_text("no comparison yet")).to_be_visible()
    texts = [
        f"{first} {second}"
        for first in ("good", "bad", "film", "fun", "dull")
        for second in ("good", "bad", "was", "fun")
    ]
    answer = page.request.post(
        f"{site}/v1/models/{TASK}/classify", data={"inputs": texts}, headers={"X-Api-Key": admin_key}
    )
    assert answer.ok
    page.clock.fast_forward(POLL_MILLISECONDS)
    expect(page.get_by_text(f"{len(texts)} texts, 0 repeated")).to_be_visible()
    page.clock.fast_forward(POLL_MILLISECONDS)
    expect(page.get_by_role("img", name="and the guard at 1 %")).to_be_visible()
    expect(page.get_by_role("table", name="Latest disagreements").get_by_role("row")).not_to_have_count(1)
    assert grave_findings(page) == []
    page.get_by_role("button", name="End", exact=True).click()
    dialog.get_by_role("button", name=f"End the experiment on {TASK}").click()
    expect(page.get_by_text("No experiment is running.")).to_be_visible()
