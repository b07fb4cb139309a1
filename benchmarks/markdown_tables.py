"""Markdown tables, and the generated part of a page between two markers."""

import re
from collections.abc import Sequence
from pathlib import Path

from sparserve.models.files import write_atomically


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """Return a Markdown table without a trailing line break.

    Args:
        head: one title per column.
        rows: one cell per column; cells must not contain "|".
        figures: align all columns except the first to the right; otherwise align all columns to the left.
    """
    others = "--:|" if figures else "---|"
    lines = ["| " + " | ".join(head) + " |", "|---|" + others * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def write_between(
    page: Path, content: str, *, begin: str = "<!-- measured -->", end: str = "<!-- /measured -->"
) -> None:
    """Replace the text between the two markers of a page by `content`, which ends with a line break.

    Raises:
        SystemExit: the page does not have exactly one such pair of markers. The page is not changed.
    """
    section = re.compile(rf"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    text, count = section.subn(lambda match: match[1] + content + match[2], page.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{page} must have exactly one section {begin} ... {end}")
    write_atomically(page, text)
