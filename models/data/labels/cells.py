"""Cells that hold several labels: lists as JSON, Python, numpy or PostgreSQL write them, also as text."""

import ast
import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sparserve.models.errors import DataError

# `array(['a', 'b'], dtype=object)`, `frozenset({'a'})`, `Index(['a'], dtype='object')`
_CALL = re.compile(
    r"(?:np\.|numpy\.|pd\.|torch\.)?(?:array|tensor|Index|frozenset|set|list|tuple)\((.*?)(?:,\s*dtype=[^()\[\]]*)?\)",
    re.S,
)
_QUOTED = re.compile(r"""[ub]?('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.S)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.I)
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_WAY_OUT = "Write a list of labels, one column of 0 and 1 for each label, or a single label."


def read_lists(values: Iterable[Any], source: str) -> list[Any] | None:
    """Return a label column's cells with a list in place of each cell that is one; None if no cell is a list.

    Words in brackets without quotes, as in `[a, b]`, are a list only if every cell is one or other labels share them.

    Raises:
        DataError: a cell is a mapping or another structure than a list.
    """
    cells = [_plain(value) for value in values]
    parsed = [_parse(cell, source) if isinstance(cell, str) else cell for cell in cells]
    if any(isinstance(value, list) for value in parsed):
        return parsed
    if any(isinstance(cell, str) and _in_brackets(cell) for cell in cells) and _bare_lists(cells):
        return [_bare(cell) if isinstance(cell, str) and _in_brackets(cell) else cell for cell in cells]
    return None


def is_vector(rows: Iterable[Any]) -> bool:
    """Return True if the lists of a column are vectors of 0 and 1 rather than names."""
    lists = [row for row in rows if isinstance(row, list)]
    if not lists or len({len(row) for row in lists}) > 1 or len(lists[0]) < 2:
        return False
    flat = {str(element) for row in lists for element in row}
    repeated = any(len(set(map(str, row))) < len(row) for row in lists)
    return repeated and flat <= {"0", "1", "0.0", "1.0", "0.", "1.", "True", "False"}


def _plain(value: Any) -> Any:
    """Return a list for the other sequences of a cell, and for an object that has choices (Label Studio)."""
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if isinstance(value, dict) and list(value) == ["choices"] and isinstance(value["choices"], list):
        return value["choices"]
    return value


def _parse(cell: str, source: str) -> Any:
    """Return a list if a cell is one, and else the cell."""
    text = cell.strip()
    if text.startswith('"['):  # a list that was encoded twice
        with contextlib.suppress(ValueError):
            text = str(json.loads(text))
    call = _CALL.fullmatch(text)
    if call:
        text = call[1].strip() or "[]"
    if not _in_brackets(text):
        return cell
    try:
        value = _plain(json.loads(text))
    except (ValueError, RecursionError):
        pass
    else:
        if value == {}:
            return []  # no labels, as PostgreSQL writes it
        if isinstance(value, dict):
            raise DataError(f"{source}: a label is an object, {_short(cell)}. {_WAY_OUT}")
        return value
    if text[0] == "{" and re.match(r"\{\s*" + _QUOTED.pattern + r"\s*:", text, re.S):
        raise DataError(f"{source}: a label is an object, {_short(cell)}. {_WAY_OUT}")
    quoted = _QUOTED.match(text[1:].lstrip()) is not None
    elements = list(_elements(text[1:-1]))
    if None in elements:
        if quoted and text[0] == "{" and "'" not in text:
            return next(csv.reader([text[1:-1]]), [])  # PostgreSQL quotes a name where it needs quotes
        if quoted:
            raise DataError(f"{source}: a label is a list that cannot be read, {_short(cell)}. {_WAY_OUT}")
        return cell
    if text[0] == "(" and elements and not quoted:
        return cell  # a name such as (1)
    return elements if elements or text in ("[]", "()", "{}") else cell


def _elements(text: str) -> Iterator[Any]:
    """Yield the quoted texts and numbers of a list, with commas or spaces between them; None for anything else."""
    position = 0
    while position < len(text):
        if text[position] in ", \t\r\n":
            position += 1
            continue
        quoted = _QUOTED.match(text, position)
        match = quoted or _NUMBER.match(text, position)
        if match is None or (match.end() < len(text) and text[match.end()] not in ", \t\r\n"):
            yield None
            return
        yield _unquoted(quoted[1]) if quoted else match[0]
        position = match.end()


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text[1:-1]


def _in_brackets(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]


def _bare_lists(cells: Iterable[Any]) -> bool:
    """Return True if words in brackets are lists: every cell is one, or other labels share most of their words."""
    names = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
    bracketed = [name for name in names if _in_brackets(name)]
    plain = set(names) - set(bracketed)
    words = Counter(word for name in set(bracketed) for word in _bare(name))
    shared = [word for word, count in words.items() if count > 1 or word in plain]
    return not plain or 2 * len(shared) > len(words)


def _bare(cell: str) -> list[str]:
    return [name for part in cell.strip()[1:-1].split(",") if (name := part.strip().strip("\"'"))]


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 60 else cell[:57] + "...")
