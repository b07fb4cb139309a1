"""The README and the pages of the documentation: length, links, and tables that are up to date."""

import re
from pathlib import Path

import pytest
import yaml

from benchmarks.demo.publish import PICTURE, RESULT, headline, picture, variants
from sparserve.models.report.schema import Report

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
# The reference pages that docs/generate.py writes; they are not in the repository.
GENERATED = {
    *(f"docs/reference/{name}.md" for name in ("cli", "exit-codes", "http-api", "manifest", "metrics")),
    *(f"docs/reference/{name}.md" for name in ("python-api", "recipe", "settings")),
}
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if str(page.relative_to(ROOT)) not in GENERATED),
]


def test_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_to_existing_files(page: Path) -> None:
    for target in LINK.findall(re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)):
        path = (page.parent / target).resolve()
        recorded = ROOT / "benchmarks" / "results" / path.name
        assert path.is_file() or str(path.relative_to(ROOT)) in GENERATED or recorded.is_file(), target


def test_navigation_lists_every_page() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md")} | GENERATED
    assert {f"docs/{page}" for page in _leaves(navigation)} == pages


def test_demo_tables_are_those_of_the_recorded_report() -> None:
    report = Report.model_validate_json(RESULT.read_bytes())
    assert headline(report) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert variants(report) in (DOCS / "benchmarks" / "demo.md").read_text(encoding="utf-8")


def test_demo_picture_is_that_of_the_recorded_report(tmp_path: Path) -> None:
    picture(Report.model_validate_json(RESULT.read_bytes()), tmp_path / "demo.svg")
    assert (tmp_path / "demo.svg").read_bytes() == PICTURE.read_bytes()


def _leaves(node: object) -> list[str]:
    if isinstance(node, str):
        return [node]
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [leaf for value in values for leaf in _leaves(value)]
