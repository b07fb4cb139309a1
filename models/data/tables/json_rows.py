"""JSON files: lines of objects, an array of objects, or an object of columns."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparserve.models.data.tables.annotations import plain_rows
from sparserve.models.data.tables.table import KNOWN_NAMES, Table, split_named
from sparserve.models.errors import DataError

_EXAMPLE = '{"text": ..., "label": ...}'


def looks_like_json(text: str) -> bool:
    """Return True if a text begins with a JSON object, or with an array of objects."""
    start = text.lstrip()
    if not start.startswith(("{", "[")):
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (bool(value) and all(isinstance(row, dict) for row in value))


def read_json(path: Path, text: str) -> Table:
    """Return the table in the text of a JSON file.

    Raises:
        DataError: it is not JSON, or holds neither objects nor columns.
    """
    start = text.lstrip()
    try:
        # The whole first line is a value in a file of JSON lines, and in one that has a single line.
        first = json.loads(start.partition("\n")[0])
    except (ValueError, RecursionError):
        first = None
    single = "\n" not in start.rstrip()
    if isinstance(first, dict) and not (single and any(isinstance(value, list | dict) for value in first.values())):
        return _table(path, _lines(path, text), "JSON lines")
    values = list(_values(path, text))
    if len(values) == 1 and isinstance(values[0], list):
        return _table(path, enumerate(values[0], 1), "JSON array", where="row")
    if len(values) == 1 and isinstance(values[0], dict):
        return _from_object(path, values[0])
    return _table(path, enumerate(values, 1), "JSON objects", where="object")


def _lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): a JSON string may contain U+2028, which does not end a line of JSON lines.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not valid JSON: {error}.") from error


def _values(path: Path, text: str) -> Iterator[Any]:
    """Yield the JSON values of a text, one after the other."""
    decoder, position = json.JSONDecoder(), 0
    while True:
        while text[position : position + 1].isspace():
            position += 1
        if position >= len(text):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", position)) + 1
            raise DataError(f"{path}, line {line} is not valid JSON: {error}.") from error
        yield value


def _from_object(path: Path, whole: dict[str, Any]) -> Table:
    """Return the table in one object: its columns, its list of rows, or an object as pandas writes it."""
    if isinstance(whole.get("columns"), list) and isinstance(whole.get("data"), list):  # pandas: orient="split"
        names = [str(name) for name in whole["columns"]]
        rows = [dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in whole["data"]]
        return _table(path, enumerate(rows, 1), "JSON object of rows", where="row")
    if isinstance(whole.get("train"), list):
        return _from_splits(path, whole)
    values = list(whole.values())
    if len(values) == 1 and isinstance(values[0], dict) and any(isinstance(one, list) for one in values[0].values()):
        return _from_object(path, values[0])
    lists_only = bool(values) and all(isinstance(value, list) for value in values)
    rows_only = lists_only and all(isinstance(row, dict) for value in values for row in value)
    if lists_only and not rows_only and len({*map(len, values)}) == 1:
        return Table(whole, format="JSON object of columns")
    lists = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        return _table(path, enumerate(lists[0], 1), "JSON object with a list of rows", where="row")
    if values and all(isinstance(value, dict) for value in values):
        if any(KNOWN_NAMES & {str(name).casefold() for name in value} for value in values):  # pandas: orient="index"
            return _table(path, enumerate(values, 1), "JSON object of rows", where="row")
        if len({tuple(value) for value in values}) == 1:  # pandas: orient="columns"
            return Table({name: list(value.values()) for name, value in whole.items()}, format="JSON object of columns")
    raise DataError(
        f"{path} holds one JSON object without a table that can be recognised. Write one object for each text, like "
        f"{_EXAMPLE}, on lines or in an array."
    )


def _from_splits(path: Path, whole: dict[str, Any]) -> Table:
    """Return the rows of an object that has a list of them for each split, with the split as a column."""
    rows: list[Any] = []
    unused = []
    for name, values in whole.items():
        split = split_named(name)
        if split is None or not isinstance(values, list):
            unused.append(name)
        elif all(isinstance(row, dict) for row in values):
            rows += [{**row, "split": split} for row in values]
        else:
            rows += [[*row, split] if isinstance(row, list) else row for row in values]
    table = _table(path, enumerate(rows, 1), "JSON object with a list of rows for each split", where="row")
    if not table.named:
        table = replace(
            table, columns=dict(zip((*list(table.columns)[:-1], "split"), table.columns.values(), strict=True))
        )
    notes = (f"not used: {', '.join(unused[:5])}",) if unused else ()
    return replace(table, notes=(*table.notes, *notes))


def _from_arrays(rows: Sequence[list[Any]], form: str) -> Table:
    """Return the table of rows without names; a first row with a usual name has the names."""
    header = any(isinstance(name, str) and name.strip().casefold() in KNOWN_NAMES for name in rows[0])
    names = [str(name) if header else f"column {place}" for place, name in enumerate(rows[0], 1)]
    columns = {name: [row[place] for row in rows[header:]] for place, name in enumerate(names)}
    return Table(columns, named=header, format=f"{form}, a row is an array")


def _table(path: Path, numbered: Iterable[tuple[int, Any]], form: str, *, where: str = "line") -> Table:
    pairs = list(numbered)
    values = [row for _, row in pairs]
    if pairs and all(isinstance(row, list) and len(row) == len(values[0]) > 1 for row in values):
        return _from_arrays(values, form)
    for number, row in pairs:
        if not isinstance(row, dict):
            raise DataError(f"{path}, {where} {number} is not a JSON object. Every {where} must be like {_EXAMPLE}.")
    rows, notes = plain_rows(values)
    columns: dict[str, list[Any]] = {}
    for count, row in enumerate(rows):
        for name, value in row.items():
            columns.setdefault(name, [None] * count).append(value)
        for values in columns.values():
            if len(values) <= count:
                values.append(None)
    return Table(columns, format=form, notes=notes)
