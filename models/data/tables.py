"""Tables of labelled text read from CSV, TSV, JSON lines and Parquet files, with errors that name the line."""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparserve.models.errors import DataError

# Python's limit is 131,072 characters per field. Longer texts are valid: the tokenizer truncates them.
csv.field_size_limit(2**30)
# Usual names of such columns, the most likely first.
TEXT_NAMES = (
    "text", "sentence", "review", "content", "sentence1", "premise", "question1", "question", "body", "comment",
    "comment_text", "message", "tweet", "title", "document", "utterance", "query", "description",
)  # fmt: skip
PAIR_NAMES = ("text_pair", "sentence2", "hypothesis", "question2", "text2", "pair", "passage", "answer")
LABEL_NAMES = (
    "label", "labels", "sentiment", "category", "class", "target", "intent", "topic", "tags", "gold_label", "y",
    "emotion", "stars", "rating",
)  # fmt: skip
_KNOWN_NAMES = frozenset({*TEXT_NAMES, *PAIR_NAMES, *LABEL_NAMES})


@dataclass(frozen=True)
class Table:
    """Columns of equal length with the values of the file: strings from CSV, any JSON or Parquet value otherwise.

    `named` is False if the file has no header row and the column names are made up.
    """

    columns: Mapping[str, list[Any]]
    named: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read_table(path: Path, *, header: bool | None = None, expected: Collection[str] = ()) -> Table:
    """Read a file by its extension.

    `header` is True if the first row of a CSV file names its columns, None to detect that. `expected` are column names
    that mark the first row as a header.

    Raises:
        DataError: the file is missing, empty, malformed, not UTF-8, or has an unknown extension.
    """
    if not path.is_file():
        raise DataError(f"File {path} does not exist.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has an unknown extension. Supported: {', '.join(READERS)}.")
    table = reader(path, header, expected)
    if not len(table):
        raise DataError(f"{path} has no rows.")
    return table


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} (0x{content[error.start]:02x}) in line {line}. "
            "Convert the file, for example with iconv."
        ) from error


def _read_csv(path: Path, header: bool | None, expected: Collection[str]) -> Table:
    text = _text(path)
    first, _, rest = text.partition("\n")
    # Excel names the delimiter in a first line that is not data.
    declared = re.fullmatch(r"sep=([,;|\t])\r?", first)
    if declared:
        return _read_delimited(path, f"\n{rest}", header, expected, declared[1])
    usual = ";" if first.count(";") > first.count(",") else ","
    delimiter = usual if usual in first else max(",|\t", key=first.count)
    return _read_delimited(path, text, header, expected, delimiter)


def _read_tsv(path: Path, header: bool | None, expected: Collection[str]) -> Table:
    return _read_delimited(path, _text(path), header, expected, "\t")


def _read_delimited(path: Path, text: str, header: bool | None, expected: Collection[str], delimiter: str) -> Table:
    # TSV files rarely quote fields, so a quote in them is a character like any other.
    unquoted = delimiter == "\t" and not _has_quoted_fields(text)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        skipinitialspace=delimiter != "\t",  # so that the quotes of `text, "label"` are recognised
        strict=True,
    )
    rows: list[list[str]] = []
    try:
        for row in reader:
            if not row:
                continue
            if rows and len(row) != len(rows[0]):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the first row has {len(rows[0])}. "
                    f"Quote fields that contain the delimiter {delimiter!r}."
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num} is not valid CSV: {error}. "
            "Close every quoted field, and write quotes within it twice."
        ) from error
    if not rows:
        return Table({})
    if header is None:
        header = _looks_like_header(rows, expected)
    # A table that was saved with its row index has a column without a name.
    names = [(name.strip() if header else "") or f"column {i}" for i, name in enumerate(rows[0], 1)]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two columns have the same name. Columns: {', '.join(names)}. Rename one of them.")
    body = rows[1:] if header else rows
    return Table({name: [row[i] for row in body] for i, name in enumerate(names)}, named=header)


def _has_quoted_fields(text: str) -> bool:
    """Return True if a field of the first 20 lines begins and ends with a quote."""
    fields = [field for line in text.splitlines()[:20] for field in line.split("\t")]
    return any(len(field) > 1 and field.startswith('"') and field.endswith('"') for field in fields)


def _looks_like_header(rows: list[list[str]], expected: Collection[str]) -> bool:
    """Return True if the first row holds column names.

    One known or expected name that does not occur again in its column is enough. Else every field must look like a
    name: short, not a number, and not repeated in its column.
    """
    first, body = [name.strip() for name in rows[0]], rows[1:2001]
    if not body:
        return False
    unique = [all(row[index].strip() != name for row in body) for index, name in enumerate(first)]
    if any(
        once and (name in expected or name.casefold() in _KNOWN_NAMES) for name, once in zip(first, unique, strict=True)
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


def _read_json_lines(path: Path, header: bool | None, expected: Collection[str]) -> Table:
    columns: dict[str, list[Any]] = {}
    count = 0
    # Not splitlines(): a JSON string may contain U+2028, which does not end a line of JSON lines.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(
                f'{path}, line {number} is not a JSON object. Every line must be like {{"text": ..., "label": ...}}.'
            )
        for name, value in row.items():
            columns.setdefault(name, [None] * count).append(value)
        count += 1
        for values in columns.values():
            if len(values) < count:
                values.append(None)
    return Table(columns)


def _read_parquet(path: Path, header: bool | None, expected: Collection[str]) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    return Table({name: table.column(name).to_pylist() for name in table.column_names})


READERS: Mapping[str, Callable[[Path, bool | None, Collection[str]], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".tab": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
