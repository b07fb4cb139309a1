"""Label names and indices from raw values: strings, numbers, booleans, separated lists, and columns of 0 and 1."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sparserve.models.data.columns import MAX_LABELS, Columns, indicator
from sparserve.models.data.tables import Table
from sparserve.models.errors import DataError

MIN_ROWS_PER_LABEL = 2


def label_sets(
    table: Table, columns: Columns, source: str, *, separator: str | None, multi_label: bool | None
) -> tuple[list[tuple[str, ...] | None], bool]:
    """Return the label names of each row, None for a row without a label, and True if rows may have several labels.

    Raises:
        DataError: a label is not text, a number or a boolean, or a column of 0 and 1 holds another value.
    """
    if len(columns.labels) > 1:
        rows = zip(*(_indicators(table.columns[name], name, source) for name in columns.labels), strict=True)
        return [tuple(n for n, on in zip(columns.labels, row, strict=True) if on) for row in rows], True
    values = table.columns[columns.labels[0]]
    several = multi_label is True or separator is not None or any(isinstance(value, list) for value in values)
    if not several:
        return [None if _missing(value) else (_name(value, source),) for value in values], False
    return [_names(value, separator or "|", source) for value in values], True


def label_names(rows: Sequence[tuple[str, ...]], source: str, *, multi_label: bool) -> tuple[str, ...]:
    """Return every label that occurs: in numerical order if all are numbers, else in alphabetical order.

    Raises:
        DataError: there are fewer than 2 labels or more than `MAX_LABELS`, or a label has too few rows.
    """
    counts = Counter(name for row in rows for name in row)
    if len(counts) < 2:
        only = f"only the label {next(iter(counts))!r}" if counts else "no labels"
        raise DataError(f"{source} has {only}. A classifier needs at least 2 labels. Check --label-column.")
    if len(counts) > MAX_LABELS:
        numbers = all(_number(name) is not None for name in counts)
        hint = "Predicting numbers (regression) is not supported." if numbers else "Check --label-column."
        raise DataError(f"{source} has {len(counts)} different labels; at most {MAX_LABELS} are supported. {hint}")
    fractional = [name for name in counts if (number := _number(name)) is not None and number != int(number)]
    if fractional and len(counts) > 20:
        raise DataError(
            f"{source}: the labels are measurements, such as {fractional[0]}. Predicting numbers (regression) is not "
            "supported. Check --label-column."
        )
    rare = [name for name, count in counts.items() if count < MIN_ROWS_PER_LABEL]
    if rare:
        hint = (
            ""
            if 2 * len(rare) < len(counts)
            else f" {len(rare)} of {len(counts)} labels are rare: check --label-column."
        )
        raise DataError(
            f"{source}: the label {rare[0]!r} has {counts[rare[0]]} row; at least {MIN_ROWS_PER_LABEL} are needed. "
            f"Add rows, merge it with another label, or remove it.{hint}"
        )
    if all(_number(name) is not None for name in counts):
        return tuple(sorted(counts, key=lambda name: _number(name) or 0.0))
    return tuple(sorted(counts))


def encode(row: tuple[str, ...], names: tuple[str, ...], *, multi_label: bool) -> Any:
    """Return the index of a row's label, or for a multi-label task 0 or 1 for every label."""
    if multi_label:
        return [int(name in row) for name in names]
    return names.index(row[0])


def _indicators(values: Sequence[Any], column: str, source: str) -> list[bool]:
    flags = []
    for row, value in enumerate(values, 1):
        flag = indicator(value)
        if flag is None:
            raise DataError(
                f"{source}: column {column!r} holds {value!r} in row {row}. A label column needs 0 or 1 (or false or "
                "true) in every row: write 0 or 1, or remove the row."
            )
        flags.append(flag)
    return flags


def _names(value: Any, separator: str, source: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    parts = value if isinstance(value, list) else str(value).split(separator)
    return tuple(dict.fromkeys(_name(part, source) for part in parts if not _missing(part)))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # NaN


def _name(value: Any, source: str) -> str:
    if isinstance(value, dict | list | bytes):
        raise DataError(f"{source}: a label is a {type(value).__name__}. Labels are text, numbers, or true and false.")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{source}: the number {value} cannot be a label. Remove its rows, or write the label as text.")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    name = str(value).strip()
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise DataError(
            f"{source}: the label {name!a} contains half of a surrogate pair. Replace it with the whole character."
        )
    return name


def _number(name: str) -> float | None:
    """Return the finite number that a name spells, else None; "nan" and "Infinity" are ordinary words."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
