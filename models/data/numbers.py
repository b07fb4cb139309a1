"""One number for each row instead of labels: measurements, or the relevance of a document to a query."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from sparserve.models.data.columns import MAX_LABELS, Columns
from sparserve.models.data.options import DataOptions, Head
from sparserve.models.data.tables.table import Table
from sparserve.models.errors import DataError

# Labels that are numbers stay labels up to this many, such as ratings with halves from 0.5 to 10.
MAX_FRACTIONAL_LABELS: Final = 20
NAMES: Final = {"number": "score", "relevance": "relevance"}
# A standard deviation outside of these is learned slowly or not at all with usual learning rates.
USUAL_SPREAD: Final = (0.05, 20.0)
DECIMAL_COMMA: Final = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+")


def choose_head(table: Table, columns: Columns, options: DataOptions, notes: list[str]) -> Head:
    """Return what is learned from the label column; adds a note if that was detected to be a number.

    Raises:
        DataError: another option contradicts the chosen head.
    """
    chosen = options.get("head")
    if chosen is None or chosen == "labels":
        several = options.get("multi_label") or options.get("label_separator")
        if chosen is None and not several and len(columns.labels) == 1:
            values = table.columns[columns.labels[0]]
            if _are_measurements(values, named=bool(options.get("label_column"))):
                notes.append(
                    f"column {columns.labels[0]!r} holds numbers, so the model predicts one number for each row "
                    "(detected; use --head relevance to rank documents for a query, --head labels for classes)"
                )
                return "number"
            notes += _note_on_fractions(values, columns.labels[0])
        return "labels"
    if len(columns.labels) > 1 or options.get("multi_label") or options.get("label_separator"):
        raise DataError(
            f"--head {chosen} learns one number for each row: give one --label-column, and neither --multi-label nor "
            "--label-separator."
        )
    if chosen == "relevance" and columns.text_pair is None:
        raise DataError(
            "--head relevance learns from pairs, a query and a document: name the columns with --text-column and "
            "--text-pair-column."
        )
    return chosen


def numbers(values: Iterable[Any], column: str, source: str) -> list[float | None]:
    """Return the cells of a column as numbers, None for an empty one.

    Raises:
        DataError: a cell is not a finite number.
    """
    read: list[float | None] = []
    for row, value in enumerate(_with_decimal_points(list(values)), 1):
        number = _number(value)
        if number is None and not _missing(value):
            raise DataError(
                f"{source}: column {column!r} holds {str(value)[:60]!r} in row {row}, which is not a finite number. "
                "Write plain numbers such as 12.5, without signs or units; or remove the row, or use --head labels."
            )
        read.append(number)
    return read


def relevance_grades(values: Sequence[float], source: str) -> float:
    """Return the highest grade, by which all are divided: then a relevance is between 0 and 1.

    Raises:
        DataError: a grade is negative, or all are 0.
    """
    lowest, highest = min(values), max(values)
    if lowest < 0 or highest == 0 or lowest == highest:
        raise DataError(
            f"{source}: relevance must be 0 for irrelevant documents and higher for relevant ones, but the grades "
            f"are from {lowest:g} to {highest:g}. Add rows of the other kind, or use --head number."
        )
    return highest


def notes_on_numbers(values: Sequence[float], source: str) -> list[str]:
    """Return notes on numbers that are hard to learn.

    Raises:
        DataError: all numbers are equal.
    """
    spread = float(np.std(values))
    if spread == 0:
        raise DataError(f"{source}: every row has the number {values[0]:g}, so there is nothing to learn.")
    if not USUAL_SPREAD[0] <= spread <= USUAL_SPREAD[1]:
        return [
            f"the numbers have a standard deviation of {spread:.3g}; learning rates suit numbers with one near 1, so "
            "divide the column by it"
        ]
    return []


def _are_measurements(values: Sequence[Any], *, named: bool) -> bool:
    """Return True for numbers that cannot be classes: fractions of many values, or more values than classes.

    A column that the user has named may have any number of whole numbers as classes.
    """
    cells = _comparable(values)
    if any(isinstance(value, bool) or _number(value) is None for value in cells):
        return False
    distinct = {_number(value) or 0.0 for value in cells}
    fractional = any(number != int(number) for number in distinct)
    return (fractional and len(distinct) > MAX_FRACTIONAL_LABELS) or (not named and len(distinct) > MAX_LABELS)


def _comparable(values: Sequence[Any]) -> Sequence[Any]:
    """Return the cells that are not empty. Commas are decimal if every cell has one: else 2,27 may be two labels."""
    cells = [value for value in values if not _missing(value)]
    return _with_decimal_points(cells) if all(isinstance(cell, str) and "," in cell for cell in cells) else cells


def _with_decimal_points(values: Sequence[Any]) -> Sequence[Any]:
    """Return the cells with a point in place of decimal commas, unless these may separate thousands, as in 1,234."""
    commas = [value.strip() for value in values if isinstance(value, str) and "," in value]
    if not commas or not all(map(DECIMAL_COMMA.fullmatch, commas)):
        return values
    if all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", cell) for cell in commas):
        return values
    points = [value for value in values if isinstance(value, str) and "," not in value and "." in value]
    return values if points else [_with_point(value) if isinstance(value, str) else value for value in values]


def _with_point(cell: str) -> str:
    return cell.replace(".", "").replace(",", ".") if "," in cell else cell


def _note_on_fractions(values: Sequence[Any], column: str) -> list[str]:
    numbers = [_number(value) for value in _comparable(values)]
    fractions = [number for number in numbers if number is not None and number != int(number)]
    if None in numbers or not fractions:
        return []
    return [f"the classes of {column!r} are numbers such as {fractions[0]:g}: use --head number to predict a number"]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _number(value: Any) -> float | None:
    """Return the finite number of a cell, else None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
