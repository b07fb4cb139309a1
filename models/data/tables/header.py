"""The header of a CSV file: a first row of column names, or none, and rows that only look like data."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sparserve.models.data.tables.table import KNOWN_NAMES
from sparserve.models.errors import DataError

Rows = list[list[str]]
SAMPLE_ROWS = 2000
RULES_LEFT_OUT = "rows of dashes are left out"
RULE = re.compile(r"[-+=:|\s]*-{2,}[-+=:|\s]*")


@dataclass(frozen=True)
class NamedRows:
    """The rows of a table by column name; `notes` say which rows were no data."""

    names: list[str]
    rows: Rows
    named: bool
    notes: tuple[str, ...] = ()


def with_names(where: str, rows: Rows, *, header: bool | None, expected: Collection[str]) -> NamedRows:
    """Return the names of the columns and the rows below them. `header` None detects if the first row names columns.

    A row of dashes and a repeated header, as in files that were joined, are left out.

    Raises:
        DataError: two columns have the same name.
    """
    body = [row for row in rows if not _is_rule(row)]
    notes = [RULES_LEFT_OUT] if len(body) < len(rows) and body else []
    rows = body or rows
    first = [*map(_plain, rows[0])]
    below = [row for row in rows[1:] if _plain(row[0]) != first[0] or [*map(_plain, row)] != first]
    named = looks_like_header([first, *below], expected) if header is None else header
    # A table that was saved with its row index has a column without a name.
    names = [(_plain(name) if named else "") or f"column {i}" for i, name in enumerate(rows[0], 1)]
    if len(set(names)) != len(names):
        raise DataError(f"{where}: two columns have the same name. Columns: {', '.join(names)}. Rename one of them.")
    if not named:
        return NamedRows(names, rows, named, tuple(notes))
    if repeated := len(rows) - 1 - len(below):
        notes.append(f"rows that repeat the header are left out: {repeated:,}")
    return NamedRows(names, below, named, tuple(notes))


def with_row_names(rows: Rows) -> Rows | None:
    """Return the rows with a name for a first column of numbers if only the header lacks it, as in R; else None."""
    if len(rows) < 2 or any(len(row) != len(rows[0]) + 1 for row in rows[1:]):
        return None
    numbers = {row[0] for row in rows[1:] if row[0].isdecimal()}
    return [["", *rows[0]], *rows[1:]] if len(numbers) == len(rows) - 1 else None


def looks_like_header(rows: Rows, expected: Collection[str]) -> bool:
    """Return True if the first row holds column names.

    One known or expected name that does not occur again in its column is enough, and so are the numbers of the columns,
    as pandas writes them. Else every field must look like a name: short, not a number, and not repeated in its column.
    Columns without a name count if they are empty or number the rows.
    """
    first, body = [_plain(name) for name in rows[0]], rows[1 : SAMPLE_ROWS + 1]
    if not body:
        return False
    unique = [all(row[index].strip() != name for row in body) for index, name in enumerate(first)]
    if any(
        once and (name in expected or name.casefold() in KNOWN_NAMES) for name, once in zip(first, unique, strict=True)
    ):
        return True
    places = [place for place, name in enumerate(first) if name]
    if any(not _is_unnamed([row[place] for row in body]) for place, name in enumerate(first) if not name):
        return False
    if len(places) > 1 and [first[place] for place in places] == [str(number) for number in range(len(places))]:
        return any(not _is_number(row[place]) for row in body for place in places if unique[place])
    return bool(places) and all(unique[place] and _is_name(first[place]) for place in places)


def _plain(name: str) -> str:
    return name.strip(" \t\r\n\ufeff")


def _is_rule(row: Sequence[str]) -> bool:
    """Return True for a row of dashes between a header and its rows, as SQL consoles and Markdown write it."""
    cells = [cell for cell in row if cell.strip()]
    return bool(cells) and all(map(RULE.fullmatch, cells))


def _is_unnamed(cells: Sequence[str]) -> bool:
    return not any(cell.strip() for cell in cells) or (
        all(cell.strip().isdecimal() for cell in cells) and len({*cells}) == len(cells)
    )


def _is_name(name: str) -> bool:
    return len(name) <= 40 and len(name.split()) <= 4 and not _is_number(name)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
