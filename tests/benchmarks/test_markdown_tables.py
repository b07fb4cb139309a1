from pathlib import Path

import pytest

from benchmarks.markdown_tables import table, write_between

PAGE = "# A page\n\n<!-- measured -->\nold\n<!-- /measured -->\n\nThe end.\n"


@pytest.mark.parametrize(("figures", "rule"), [(True, "|---|--:|--:|"), (False, "|---|---|---|")])
def test_table_aligns_figures_right(figures: bool, rule: str) -> None:
    found = table(["arm", "ms", "MB"], [["dense", "1.0", "2"], ["sparse", "0.5", "-"]], figures=figures)
    assert found == f"| arm | ms | MB |\n{rule}\n| dense | 1.0 | 2 |\n| sparse | 0.5 | - |"


def test_write_between_replaces_marked_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    write_between(page, "\\1 % of \\g<0>\n")
    assert page.read_text(encoding="utf-8") == PAGE.replace("old", "\\1 % of \\g<0>")


@pytest.mark.parametrize("text", ["# A page\n", PAGE + PAGE])
def test_write_between_rejects_page_without_markers(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="must have exactly one section"):
        write_between(page, "new\n")
    assert page.read_text(encoding="utf-8") == text
