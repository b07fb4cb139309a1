"""CSV and TSV files: dialect, comments, header and rows, with errors that name the line."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sparserve.models.data.tables.dialect import SPELLED, Dialect, candidates, is_comment, usual_width
from sparserve.models.data.tables.header import RULE, RULES_LEFT_OUT, Rows, with_names, with_row_names
from sparserve.models.data.tables.table import KNOWN_NAMES, ReadOptions, Table
from sparserve.models.errors import DataError, InputError

# Python's limit is 131,072 characters per field. Longer texts are valid: the tokenizer truncates them.
csv.field_size_limit(2**30)
TSV_SUFFIXES = (".tsv", ".tab")
MAX_HEAD_LINES = 30
SEVERAL = "\x1f"  # in place of a delimiter of several characters


def read_delimited(path: Path, text: str, options: ReadOptions) -> Table:
    """Return the table in the text of a CSV or TSV file.

    Raises:
        DataError: a row has another number of fields, a quoted field does not end, or two columns have one name.
        InputError: an option of the dialect is not a single character.
    """
    text = text.rstrip("\x1a\0")  # the end of a file under DOS, or space that was reserved and never written
    first, _, rest = text.partition("\n")
    # Excel names the delimiter in a first line that is not data.
    declared = re.fullmatch(r'"?sep=([,;|\t])"?\r?', first, re.IGNORECASE)
    if declared and options.delimiter is None:
        text, options = f"\n{rest}", replace(options, delimiter=declared[1])
    if len(options.delimiter or "") > 1 and (options.delimiter or "").lower() not in SPELLED:
        return _read_split(path, text, options)
    usual = "\t" if any(suffix.lower() in TSV_SUFFIXES for suffix in path.suffixes) else ","
    notes: list[str] = []
    dialects = candidates(text, options, usual=usual)
    rows, dialect = _read_with_first_that_fits(path, text, dialects, notes)
    if not rows:
        return Table({})
    if dialect.delimiter != usual and declared is None and options.delimiter is None:
        notes.append(f"fields are separated by {dialect.delimiter!r} (detected; use --delimiter to choose another)")
    return _table(path, rows, options, f"CSV, {dialect}", notes)


def _read_split(path: Path, text: str, options: ReadOptions) -> Table:
    """Return the table of a text whose delimiter has several characters. Such files have no quotes."""
    delimiter = options.delimiter or ""
    if options.quote is not None or options.escape is not None:
        raise InputError("--delimiter of several characters takes neither --quote nor --escape.")
    notes: list[str] = []
    lines = [line.rstrip("\r") for line in text.split("\n")]
    single = "\n".join(line.replace(delimiter, SEVERAL) for line in lines)
    rows = _rows(path, single, Dialect(SEVERAL, None), notes)
    if not rows:
        return Table({})
    return _table(path, rows, options, f"CSV, delimiter {delimiter!r}, no quotes", notes)


def _table(path: Path, rows: Rows, options: ReadOptions, form: str, notes: Sequence[str]) -> Table:
    table = with_names(str(path), rows, header=options.header, expected=options.expected)
    columns = {name: [row[i] for row in table.rows] for i, name in enumerate(table.names)}
    return Table(columns, named=table.named, format=form, notes=tuple(dict.fromkeys((*notes, *table.notes))))


def _read_with_first_that_fits(
    path: Path, text: str, dialects: list[Dialect], notes: list[str]
) -> tuple[Rows, Dialect]:
    """Return the rows and the dialect; raise the likeliest dialect's error if none fits."""
    error: DataError | None = None
    for dialect in dialects:
        body, comments = _without_comments(text, dialect)
        try:
            faults: list[str] = []
            rows = _rows(path, body, dialect, faults)
        except DataError as fault:
            error = error or fault
            continue
        if comments:
            notes.append(
                f"skipped at the head of the file, as comments or title: {comments} line{'s' * (comments > 1)}"
            )
        notes += faults
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


def _rows(path: Path, text: str, dialect: Dialect, notes: list[str]) -> Rows:
    """Return the rows, all of the same length, without blank ones; notes say which line was no row."""
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
    if width == 1 and (line := next((line for line, row in numbered if len(row) > 1), None)):
        raise DataError(
            f"{path}, line {line}: several fields, but most lines have one: no usual delimiter splits them into "
            f"columns ({dialect}). Quote texts that contain the delimiter, or name another one with --delimiter, such "
            "as space or ' ::: '."
        )
    named = with_row_names([row for _, row in numbered])
    if named is not None:
        notes.append("the header has one name fewer than the rows have fields, so the first column names the rows")
        return named
    rows = []
    for line, row in numbered:
        if len(row) != width and not any(field.strip() for field in row):
            continue
        if len(row) > width and not any(field.strip() for field in row[width:]):
            row = row[:width]  # delimiters at the end of a line
        if len(row) == 1 < width and RULE.fullmatch(row[0]):
            notes.append(RULES_LEFT_OUT)
            continue
        if len(row) == 1 < width and line == numbered[-1][0]:
            notes.append(f"the last line is no row and left out: {row[0].strip()[:60]!r}")
            continue
        if len(row) != width:
            raise DataError(
                f"{path}, line {line}: {len(row)} field{'s' * (len(row) > 1)}, but most rows have {width} ({dialect}). "
                "Quote fields that contain the delimiter, remove the line if it is no row, or use --delimiter if the "
                "file has another one."
            )
        rows.append(row)
    return rows
