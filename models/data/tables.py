"""Tables of text as columns of strings: CSV, TSV, JSON lines and Parquet, with errors that name the line."""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparserve.models.errors import DataError

# A text of 100,000 characters is no mistake: the tokenizer truncates it. Python's own limit is 131,072.
csv.field_size_limit(2**30)
# What such columns are usually called, the likeliest first.
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
    """Columns of equal length, as they were read: strings from CSV, any JSON or Parquet value otherwise."""

    columns: Mapping[str, list[Any]]
    named: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read_table(path: Path, *, header: bool | None = None, expected: Collection[str] = ()) -> Table:
    """Read a file by its extension; `header` says whether a CSV's first row names its columns (None: guessed).

    `expected` are names that some of them should have.

    Raises:
        DataError: the file is missing, of an unknown kind, not UTF-8, or malformed.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has none of the extensions that can be read: {', '.join(READERS)}")
    table = reader(path, header, expected)
    if not len(table):
        raise DataError(f"{path} has no rows")
    return table


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} (0x{content[error.start]:02x}) in line {line}; "
            "convert it, for example with iconv"
        ) from error


def _read_csv(path: Path, header: bool | None, expected: Collection[str]) -> Table:
    text = _text(path)
    first, _, rest = text.partition("\n")
    # Excel's own way to say it, in a line that is no data.
    said = re.fullmatch(r"sep=([,;|\t])\r?", first)
    if said:
        return _read_delimited(path, f"\n{rest}", header, expected, said[1])
    usual = ";" if first.count(";") > first.count(",") else ","
    delimiter = usual if usual in first else max(",|\t", key=first.count)
    return _read_delimited(path, text, header, expected, delimiter)


def _read_tsv(path: Path, header: bool | None, expected: Collection[str]) -> Table:
    return _read_delimited(path, _text(path), header, expected, "\t")


def _read_delimited(path: Path, text: str, header: bool | None, expected: Collection[str], delimiter: str) -> Table:
    # A quote inside a TSV's field is almost always just a quote: TSV files quote nothing, CSV files do.
    plain = delimiter == "\t" and not _quoted(text)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        skipinitialspace=delimiter != "\t",  # of `text, "label"`: fields are stripped anyway, but their quotes are not
        strict=True,
    )
    rows: list[list[str]] = []
    try:
        for row in reader:
            if not row:
                continue
            if rows and len(row) != len(rows[0]):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} fields where the first row has {len(rows[0])}; "
                    "quote fields that hold the delimiter"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        return Table({})
    if header is None:
        header = _looks_like_header(rows, expected)
    # A table that was saved with its index has a column without a name.
    names = [(name.strip() if header else "") or f"column {i}" for i, name in enumerate(rows[0], 1)]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two columns have the same name in {names}")
    body = rows[1:] if header else rows
    return Table({name: [row[i] for row in body] for i, name in enumerate(names)}, named=header)


def _quoted(text: str) -> bool:
    """Whether fields begin and end with quotes in the first lines."""
    fields = [field for line in text.splitlines()[:20] for field in line.split("\t")]
    return any(len(field) > 1 and field.startswith('"') and field.endswith('"') for field in fields)


def _looks_like_header(rows: list[list[str]], expected: Collection[str]) -> bool:
    """Names are short and not data: none of them comes again in its column, and none is a number.

    One that such a column is known or expected by is enough.
    """
    first, body = [name.strip() for name in rows[0]], rows[1:2001]
    if not body:
        return False
    new = [all(row[index].strip() != name for row in body) for index, name in enumerate(first)]
    if any(
        found and (name in expected or name.casefold() in _KNOWN_NAMES) for name, found in zip(first, new, strict=True)
    ):
        return True
    return all(new) and all(
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
    # Not splitlines(): a JSON string may hold U+2028, which is no line's end in JSON lines.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {number}: an object such as {{"text": ..., "label": ...}} is needed')
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
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error
    return Table({name: table.column(name).to_pylist() for name in table.column_names})


READERS: Mapping[str, Callable[[Path, bool | None, Collection[str]], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".tab": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
