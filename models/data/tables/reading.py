"""Reading a file as a table: its content decides the format, not its name."""

import re
from dataclasses import replace
from pathlib import Path

from sparserve.models.data.tables.arrow import arrow_format, read_arrow
from sparserve.models.data.tables.decoding import decode, read_bytes, unpack
from sparserve.models.data.tables.delimited import read_delimited
from sparserve.models.data.tables.json_rows import looks_like_json, read_json
from sparserve.models.data.tables.table import KNOWN_NAMES, TEXT_NAMES, ReadOptions, Table
from sparserve.models.errors import DataError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TEXT_SUFFIX = ".txt"
FASTTEXT = "__label__"
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".tab", TEXT_SUFFIX, ".parquet", ".arrow", ".feather")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
_COLUMN_NAME = re.compile(r"[\w.-]{1,40}")


def is_data_name(name: str) -> bool:
    """Return True if a file's name ends as those of tables do."""
    return data_suffix(name) is not None


def data_suffix(name: str) -> str | None:
    """Return the end of a table's file name in lower case, such as `.csv.gz`; None if it is another file."""
    lower = name.lower()
    packed = next((suffix for suffix in COMPRESSED_SUFFIXES if lower.endswith(suffix)), "")
    plain = next((one for one in SUFFIXES if lower.removesuffix(packed).endswith(one)), "")
    return plain + packed if plain or packed == ".zip" else None


def read_table(path: Path, options: ReadOptions | None = None) -> Table:
    """Read a CSV, TSV, JSON, Parquet or Arrow file, or lines of text, compressed or not.

    Raises:
        DataError: the file is missing, empty, malformed, or neither of these formats.
        InputError: an option of the dialect is wrong.
    """
    options = options or ReadOptions()
    table = _read(path, options)
    if not len(table):
        raise DataError(f"{path} has no rows.")
    return table


def _read(path: Path, options: ReadOptions) -> Table:
    content = read_bytes(path)
    plain = unpack(content, path)
    form = arrow_format(plain)
    if form is not None:
        return _with_unused(read_arrow(path, plain, form), options, "encoding")
    text, notes = decode(plain, path, options.encoding)
    named_json = any(suffix.lower() in JSON_SUFFIXES for suffix in path.suffixes)
    if options.delimiter is None and (looks_like_json(text) or (named_json and text.strip())):
        table = _with_unused(read_json(path, text), options)
    elif options.delimiter is None and text.lstrip().startswith(FASTTEXT):
        table = _fasttext(text)
    elif options.lines and (data_suffix(path.name) or "").startswith(TEXT_SUFFIX) and not _is_table(text, options):
        table = _with_unused(_lines(text), options)
    else:
        table = read_delimited(path, text, options)
    return replace(table, notes=(*notes, *table.notes))


def _is_table(text: str, options: ReadOptions) -> bool:
    """Return True if a text file has several columns: it has a delimiter, or a first line that names them."""
    if options.delimiter is not None:
        return True
    names = [name.strip(" \"'\r") for name in re.split(r"[,;|\t]", text.partition("\n")[0])]
    known = any(name.casefold() in KNOWN_NAMES for name in names) and all(map(_COLUMN_NAME.fullmatch, names))
    return len(names) > 1 and (known or any(name in options.expected for name in names))


def _fasttext(text: str) -> Table:
    """Return the table of lines as fastText reads them: labels that begin with `__label__`, then the text."""
    labels: list[list[str]] = []
    texts = []
    for line in filter(str.strip, text.splitlines()):
        words = line.split()
        chosen = [word.removeprefix(FASTTEXT) for word in words if word.startswith(FASTTEXT)]
        labels.append([label.strip(",") for label in chosen])
        texts.append(" ".join(word for word in words if not word.startswith(FASTTEXT)).lstrip(", "))
    single = all(len(row) < 2 for row in labels)
    cells = [row[0] if row else None for row in labels] if single else labels
    return Table({"text": texts, "label": cells}, format="lines of fastText")


def _lines(text: str) -> Table:
    """Return every line that is not blank as a row. A first line that names the column is none."""
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    header = bool(lines) and lines[0].strip().casefold() in TEXT_NAMES
    note = "every line is a text (use --delimiter if the file is a table)"
    return Table({"text": lines[header:]}, named=header, format="lines of text", notes=(note,))


def _with_unused(table: Table, options: ReadOptions, *more: str) -> Table:
    """Return the table with a note on the options that its format has no use for."""
    unused = [f"--{name}" for name in ("header", "delimiter", "quote", "escape", *more) if getattr(options, name)]
    if not unused:
        return table
    return replace(table, notes=(*table.notes, f"{', '.join(unused)} not used: the file is {table.format}"))
