"""The texts of a table's rows."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sparserve.models.data.tables.table import MISSING_WORDS, Table
from sparserve.models.errors import DataError

C1_CONTROL = re.compile("[\x80-\x84\x86-\x9f]")  # all but NEL, which ends lines


def row_texts(table: Table, columns: Sequence[str], source: str) -> list[str | None]:
    """Return the text of every row, None if it has none. Several columns are joined by a space.

    Raises:
        DataError: a cell is not text.
    """
    cells = [[_clean(value, name, row, source) for row, value in enumerate(table.columns[name], 1)] for name in columns]
    if len(cells) == 1:
        return cells[0]
    return [" ".join(filter(None, row)) or None for row in zip(*cells, strict=True)]


def damage(texts: Iterable[str]) -> list[str]:
    """Return notes on texts that were decoded wrongly before they were written to the file."""
    replaced, twice, controls, blank, example = 0, 0, 0, 0, ""
    for text in texts:
        blank += text.casefold() in MISSING_WORDS
        if "\ufffd" in text:
            replaced += 1
        elif not text.isascii() and _is_decoded_twice(text):
            twice, example = twice + 1, example or text
        elif not text.isascii() and C1_CONTROL.search(text):
            controls += 1
    notes = []
    if replaced:
        notes.append(f"{replaced:,} texts have the character U+FFFD, which stands for one that could not be decoded")
    if twice:
        notes.append(
            f"{twice:,} texts look like UTF-8 that was read as Windows-1252, such as {example[:40]!r}; write the file "
            "again in UTF-8"
        )
    if controls:
        notes.append(
            f"{controls:,} texts have control characters that Windows-1252 has letters and quotes for; use --encoding "
            "windows-1252"
        )
    if blank:
        notes.append(f"{blank:,} texts are only a word for a missing value, such as nan or NULL; remove these rows")
    return notes


def _is_decoded_twice(text: str) -> bool:
    try:
        # What Windows-1252 lacks is kept as it is by many programs, as Latin-1 does.
        return b"".join(map(_as_byte, text)).decode("utf-8") != text
    except ValueError:
        return False


def _as_byte(character: str) -> bytes:
    return character.encode("latin-1" if character < "\xa0" else "cp1252")


def _clean(value: Any, column: str, row: int, source: str) -> str | None:
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")  # Parquet files of old writers do not say that bytes are text
    if not isinstance(value, str):
        raise DataError(
            f"{source}: column {column!r} holds a value of type {type(value).__name__} in row {row}, not text. "
            "Use --text-column to choose the text column."
        )
    # Tokenizers cut a text at NUL or drop it silently. Lone surrogates cannot be encoded at all.
    return value.replace("\x00", " ").encode("utf-8", "replace").decode().strip() or None
