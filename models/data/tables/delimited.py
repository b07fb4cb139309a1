"""CSV and TSV files: dialect, comments, header and rows, with errors that name the line."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from sparserve.models.data.tables.dialect import Dialect, candidates, is_comment, usual_width
from sparserve.models.data.tables.table import KNOWN_NAMES, ReadOptions, Table
from sparserve.models.errors import DataError

# Python's limit is 131,072 characters per field. Longer texts are valid: the tokenizer truncates them.
csv.field_size_limit(2**30)
TSV_SUFFIXES = (".tsv", ".tab")
MAX_HEAD_LINES = 30
Rows = list[list[str]]


def read_delimited(path: Path, text: str, options: ReadOptions) -> Table:
    """Return the table in the text of a CSV or TSV file.

    Raises:
        DataError: a row has another number of fields, a quoted field does not end, or two columns have one name.
        InputError: an option of the dialect is not a single character.
    """
    text = text.rstrip("\x1a")  # the end of a file under DOS
    first, _, rest = text.partition("\n")
    # Excel names the delimiter in a first line that is not data.
    declared = re.fullmatch(r"sep=([,;|\t])\r?", first)
    if declared and options.delimiter is None:
        text, options = f"\n{rest}", replace(options, delimiter=declared[1])
    usual = "\t" if any(suffix.lower() in TSV_SUFFIXES for suffix in path.suffixes) else ","
    notes: list[str] = []
    dialects = candidates(text, options, usual=usual)
    rows, dialect = _read_with_first_that_fits(path, text, dialects, notes)
    if not rows:
        return Table({})
    if dialect.delimiter != usual and declared is None and options.delimiter is None:
        notes.append(f"fields are separated by {dialect.delimiter!r} (detected; use --delimiter to choose another)")
    header = _looks_like_header(rows, options.expected) if options.header is None else options.header
    # A table that was saved with its row index has a column without a name.
    names = [(name.strip(" \t\r\n\ufeff") if header else "") or f"column {i}" for i, name in enumerate(rows[0], 1)]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two columns have the same name. Columns: {', '.join(names)}. Rename one of them.")
    body = rows[1:] if header else rows
    columns = {name: [row[i] for row in body] for i, name in enumerate(names)}
    return Table(columns, named=header, format=f"CSV, {dialect}", notes=tuple(notes))


def _read_with_first_that_fits(
    path: Path, text: str, dialects: list[Dialect], notes: list[str]
) -> tuple[Rows, Dialect]:
    """Return the rows and the dialect; raise the likeliest dialect's error if none fits."""
    error: DataError | None = None
    for dialect in dialects:
        body, comments = _without_comments(text, dialect)
        try:
            rows = _rows(path, body, dialect)
        except DataError as fault:
            error = error or fault
            continue
        if comments:
            notes.append(
                f"skipped at the head of the file, as comments or title: {comments} line{'s' * (comments > 1)}"
            )
        if error is not None:
            how = "characters like any other" if dialect.quote is None else f"escaped by {dialect.escape}"
            notes.append(f"quotes are {how}, as they are not written twice (detected; use --quote and --escape)")
        return rows, dialect
    assert error is not None
    raise error


def _without_comments(text: str, dialect: Dialect) -> tuple[str, int]:
    """Return the text with an empty line for each comment or title at its head, and their number.

    They have a single field, unlike the rows, so that a row may begin with a hashtag. A title stands above known names
    of columns.
    """
    lines: list[str] = []
    position = 0
    while len(lines) < MAX_HEAD_LINES and (end := text.find("\n", position)) >= 0:
        lines.append(text[position:end])
        position = end + 1
    try:
        records = [next(_lenient(line, dialect), []) for line in lines]
        width = usual_width(row for row in _lenient(text, dialect) if any(row))
    except csv.Error:  # the strict reader will name the line
        return text, 0
    first = next((place for place, record in enumerate(records) if len(record) == width), 0)
    head = [line for line in lines[:first] if line.strip()]
    titled = any(name.strip().casefold() in KNOWN_NAMES for name in records[first]) if first else False
    if not head or width < 2 or not (titled or all(map(is_comment, head))):
        return text, 0
    return "\n" * first + text[sum(len(line) + 1 for line in lines[:first]) :], len(head)


def _lenient(text: str, dialect: Dialect) -> Iterator[list[str]]:
    return dialect.records(io.StringIO(text, newline=""), strict=False)


def _rows(path: Path, text: str, dialect: Dialect) -> Rows:
    """Return the rows, all of the same length, without blank ones."""
    reader = dialect.records(io.StringIO(text, newline=""), strict=True)
    numbered: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                numbered.append((reader.line, row))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line} is not valid CSV ({dialect}): {error}. Close every quoted field, and write "
            "quotes within it twice; or use --quote none, or --escape '\\', if the file is written so."
        ) from error
    width = usual_width(row for _, row in numbered)
    rows = []
    for line, row in numbered:
        if len(row) != width and not any(field.strip() for field in row):
            continue
        if len(row) > width and not any(field.strip() for field in row[width:]):
            row = row[:width]  # delimiters at the end of a line
        if len(row) != width:
            raise DataError(
                f"{path}, line {line}: {len(row)} field{'s' * (len(row) > 1)}, but most rows have {width} ({dialect}). "
                "Quote fields that contain the delimiter, remove the line if it is no row, or use --delimiter if the "
                "file has another one."
            )
        rows.append(row)
    return rows


def _looks_like_header(rows: Rows, expected: Collection[str]) -> bool:
    """Return True if the first row holds column names.

    One known or expected name that does not occur again in its column is enough. Else every field must look like a
    name: short, not a number, and not repeated in its column.
    """
    first, body = [name.strip() for name in rows[0]], rows[1:2001]
    if not body:
        return False
    unique = [all(row[index].strip() != name for row in body) for index, name in enumerate(first)]
    if any(
        once and (name in expected or name.casefold() in KNOWN_NAMES) for name, once in zip(first, unique, strict=True)
    ):
        return True
    return all(unique) and all(
        name and len(name) <= 40 and len(name.split()) <= 4 and not _is_number(name) for name in first
    )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
