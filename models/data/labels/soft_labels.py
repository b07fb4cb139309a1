"""Soft labels: a probability of each label, as another model has answered, in one column or in one column a label."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparserve.models.data.tables.table import Table
from sparserve.models.errors import DataError

Probabilities = Mapping[str, float]
TOLERANCE = 0.02  # of the sum of a row: answers are often rounded
LIKELY = 0.5


def read_probabilities(table: Table, columns: Sequence[str], source: str) -> list[Probabilities | None] | None:
    """Return the probability of each label by row, None for a row without; None if the columns hold other labels.

    A single column holds an object {label: probability}, also as JSON text. Several columns hold a number each, of
    which some are neither 0 nor 1; the columns name the labels.

    Raises:
        DataError: a value is not a probability.
    """
    rows: list[dict[str, float | None] | None]
    if len(columns) > 1:
        numbers = [[_number(value) for value in table.columns[name]] for name in columns]
        values = [value for column in numbers for value in column]
        if None in values or all(value in (0, 1) for value in values):
            return None
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*numbers, strict=True)]
    else:
        cells = [_object(value) for value in table.columns[columns[0]]]
        filled = [cell for cell in cells if cell is not None]
        if not filled or not all(isinstance(cell, dict) and _is_soft(cell) for cell in filled):
            return None
        rows = [
            None if cell is None else {str(k): 0.0 if v is None else _number(v) for k, v in cell.items()}
            for cell in cells
        ]
    return [row if row is None else _checked(row, number, source) for number, row in enumerate(rows, 1)]


def are_alternatives(rows: Sequence[Probabilities | None], source: str, *, multi_label: bool | None) -> bool:
    """Return True if a row has one label, so that its probabilities sum to 1; False if each label is a question apart.

    Raises:
        DataError: the user says that a row has one label, but the probabilities of a row do not sum to 1.
    """
    for number, row in enumerate(rows, 1):
        if row is not None and abs(sum(row.values()) - 1) > TOLERANCE:
            if multi_label is False:
                raise DataError(
                    f"{source}: the probabilities of row {number} sum to {sum(row.values()):.3g}, not 1, so a row can "
                    "have several labels: leave --no-multi-label out, or give every label of a row."
                )
            return False
    return multi_label is not True


def likely_labels(row: Probabilities, *, alternatives: bool) -> tuple[str, ...]:
    """Return the most likely label of a row; if a row can have several, all of at least 0.5."""
    if alternatives:
        return (max(row, key=lambda name: row[name]),)
    return tuple(name for name, value in row.items() if value >= LIKELY)


def in_order(row: Probabilities, names: Sequence[str], *, multi_label: bool) -> list[float]:
    """Return the probabilities of a row in the order of the labels; they sum to 1 unless it can have several."""
    values = [row.get(name, 0.0) for name in names]
    total = 1.0 if multi_label else math.fsum(values)
    return [value / total for value in values]


def _checked(row: Mapping[str, float | None], number: int, source: str) -> Probabilities:
    for name, value in row.items():
        if value is None or not 0 <= value <= 1:
            raise DataError(
                f"{source}: the probability of {name!r} in row {number} is {value}, but it must be between 0 and 1. "
                "Write probabilities, not logits or percentages."
            )
    return {name.strip(): value for name, value in row.items() if value is not None}


def _object(value: Any) -> Any:
    """Return the object that a cell holds, also as JSON text; None for an empty cell; else the cell."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _is_soft(cell: dict[Any, Any]) -> bool:
    """Return True for an object of numbers. A label that the row lacks may be null, as Parquet writes it."""
    given = [value for value in cell.values() if value is not None]
    return bool(given) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
