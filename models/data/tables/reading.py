"""Reading a file as a table: its content decides the format, not its name."""

from dataclasses import replace
from pathlib import Path

from sparserve.models.data.tables.arrow import arrow_format, read_arrow
from sparserve.models.data.tables.decoding import decode, read_bytes, unpack
from sparserve.models.data.tables.delimited import read_delimited
from sparserve.models.data.tables.json_rows import looks_like_json, read_json
from sparserve.models.data.tables.table import ReadOptions, Table
from sparserve.models.errors import DataError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".tab", ".txt", ".parquet", ".arrow", ".feather")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")


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
    """Read a CSV, TSV, JSON, Parquet or Arrow file, compressed or not.

    Raises:
        DataError: the file is missing, empty, malformed, or neither of these formats.
        InputError: an option of the dialect is wrong.
    """
    options = options or ReadOptions()
    table = _read(path, options)
    if not len(table):
        raise DataError(f"{path} has no rows.")
    return table


def read_lines(path: Path, encoding: str | None = None) -> Table:
    """Read a text file, compressed or not, as a table with one column `text`: every line that is not blank is a row.

    Raises:
        DataError: the file is missing, empty or not text.
    """
    text, notes = decode(unpack(read_bytes(path), path), path, encoding)
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} has no rows.")
    return Table({"text": lines}, named=False, format="lines of text", notes=tuple(notes))


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
    else:
        table = read_delimited(path, text, options)
    return replace(table, notes=(*notes, *table.notes))


def _with_unused(table: Table, options: ReadOptions, *more: str) -> Table:
    """Return the table with a note on the options that its format has no use for."""
    unused = [f"--{name}" for name in ("header", "delimiter", "quote", "escape", *more) if getattr(options, name)]
    if not unused:
        return table
    return replace(table, notes=(*table.notes, f"{', '.join(unused)} not used: the file is {table.format}"))
