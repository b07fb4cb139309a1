"""Raw label values -> label names and indexes: strings, numbers, booleans, separated lists, and 0/1 columns."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sparserve.models.data.columns import MOST_LABELS, Columns, indicator
from sparserve.models.data.tables import Table
from sparserve.models.errors import DataError

FEWEST_ROWS_A_LABEL = 2


def label_sets(
    table: Table, columns: Columns, source: str, *, separator: str | None, multi_label: bool | None
) -> tuple[list[tuple[str, ...] | None], bool]:
    """Labels of each row as names, None where the row has none; and whether rows may have several.

    Raises:
        DataError: a label is no text, number or true/false, or a column of 0 and 1 holds something else.
    """
    if len(columns.labels) > 1:
        rows = zip(*(_indicators(table.columns[name], name, source) for name in columns.labels), strict=True)
        return [tuple(n for n, on in zip(columns.labels, row, strict=True) if on) for row in rows], True
    values = table.columns[columns.labels[0]]
    several = multi_label is True or separator is not None or any(isinstance(value, list) for value in values)
    if not several:
        return [None if _missing(value) else (_name(value, source),) for value in values], False
    return [_several(value, separator or "|", source) for value in values], True


def label_names(rows: Sequence[tuple[str, ...]], source: str, *, multi_label: bool) -> tuple[str, ...]:
    """Every label that occurs, numbers in numerical order and names in alphabetical.

    Raises:
        DataError: one label only, too many, or one with too few rows.
    """
    counts = Counter(name for row in rows for name in row)
    if len(counts) < 2:
        only = f"the label {next(iter(counts))!r} only" if counts else "no label at all"
        raise DataError(f"{source} has {only}; a classifier needs at least 2 labels: is --label-column the right one?")
    if len(counts) > MOST_LABELS:
        numbers = all(_number(name) is not None for name in counts)
        hint = "predicting numbers (regression) is not supported" if numbers else "is --label-column the right one?"
        raise DataError(f"{source} has {len(counts)} different labels, more than {MOST_LABELS}: {hint}")
    fractional = [name for name in counts if (number := _number(name)) is not None and number != int(number)]
    if fractional and len(counts) > 20:
        raise DataError(f"{source}: labels such as {fractional[0]} are measurements; regression is not supported")
    rare = [name for name, count in counts.items() if count < FEWEST_ROWS_A_LABEL]
    if rare:
        raise DataError(
            f"{source}: the label {rare[0]!r} has {counts[rare[0]]} row; at least {FEWEST_ROWS_A_LABEL} are needed: "
            "add rows, merge it with another label, or remove it"
        )
    if all(_number(name) is not None for name in counts):
        return tuple(sorted(counts, key=lambda name: _number(name) or 0.0))
    return tuple(sorted(counts))


def encode(row: tuple[str, ...], names: tuple[str, ...], *, multi_label: bool) -> Any:
    """Index of a row's one label, or a 0 or 1 for every label."""
    if multi_label:
        return [int(name in row) for name in names]
    return names.index(row[0])


def _indicators(values: Sequence[Any], column: str, source: str) -> list[bool]:
    flags = []
    for row, value in enumerate(values, 1):
        flag = indicator(value)
        if flag is None:
            raise DataError(
                f"{source}: column {column!r} holds {value!r} in row {row}, but 0 or 1 (or false or true) is needed "
                "to say whether the row has that label: write 0 or 1 there, or remove the row"
            )
        flags.append(flag)
    return flags


def _several(value: Any, separator: str, source: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    parts = value if isinstance(value, list) else str(value).split(separator)
    return tuple(dict.fromkeys(_name(part, source) for part in parts if not _missing(part)))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # NaN


def _name(value: Any, source: str) -> str:
    if isinstance(value, dict | list | bytes):
        raise DataError(f"{source}: a label is a {type(value).__name__}; text, a number or true/false is needed")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{source}: the number {value} is no label; remove its rows, or write the label as text")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    name = str(value).strip()
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise DataError(f"{source}: the label {name!a} holds half of a character: write it as whole text")
    return name


def _number(name: str) -> float | None:
    """The finite number that a name spells; "nan" and "Infinity" are words like any other."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
