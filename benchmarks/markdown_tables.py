"""What programs write into Markdown pages: tables, and the part of a page between two markers."""

import re
from collections.abc import Sequence
from pathlib import Path

from sparserve.models.files import write_atomically


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """A Markdown table without a line break at its end.

    Args:
        head: a title a column.
        rows: a cell a column; a "|" in a cell would end it.
        figures: whether all columns but the first have figures, which stand to the right; else all stand to the left.
    """
    others = "--:|" if figures else "---|"
    lines = ["| " + " | ".join(head) + " |", "|---|" + others * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def write_between(
    page: Path, content: str, *, begin: str = "<!-- measured -->", end: str = "<!-- /measured -->"
) -> None:
    """Write `content`, which ends with a line break, in place of what stands between a page's two markers.

    Raises:
        SystemExit: the page has no such place, or several; it is left as it is.
    """
    place = re.compile(rf"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    written, count = place.subn(lambda found: found[1] + content + found[2], page.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{page} has no place for the tables: {begin} ... {end}")
    write_atomically(page, written)
