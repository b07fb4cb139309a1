"""Labelled rows as files of every kind."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path


def rows(count: int = 40) -> list[dict[str, str]]:
    """Return rows of a task with the labels yes and no."""
    return [{"text": f"this is text number {i}", "label": "yes" if i % 2 else "no"} for i in range(count)]


def csv_text(items: Sequence[Mapping[str, object]], delimiter: str = ",") -> str:
    """Return rows as CSV, quoted where needed."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(items[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(items)
    return out.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
