"""Label names and indices from raw values: strings, numbers, booleans, separated lists, and columns of 0 and 1."""

import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sparserve.models.data.columns import MAX_LABELS, Columns, indicator
from sparserve.models.data.labels.cells import is_vector, read_lists
from sparserve.models.data.labels.soft_labels import (
    LIKELY,
    Probabilities,
    are_alternatives,
    likely_labels,
    read_probabilities,
)
from sparserve.models.data.tables.table import Table
from sparserve.models.errors import DataError

MIN_ROWS_PER_LABEL = 2
USUAL_SEPARATOR = "|"
SEPARATORS = ("|", ";", ",")
# Characters that nobody sees at the end of a label.
INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff\u00ad"


LabelSet = tuple[str, ...]


@dataclass(frozen=True)
class LabelSets:
    """The label names of each row, None for a row without a label, and how they were read."""

    rows: list[LabelSet | None]
    multi_label: bool
    declared: tuple[str, ...] = ()
    """Names that the file declares, whether they occur or not."""
    notes: tuple[str, ...] = ()
    probabilities: list[Probabilities | None] | None = None
    """The probability of each label in each row, if the data has soft labels; `rows` has the likely ones."""


def label_sets(
    table: Table, columns: Columns, source: str, *, separator: str | None, multi_label: bool | None
) -> LabelSets:
    """Return the label names of each row.

    Raises:
        DataError: a label is not text, a number or a boolean, a column of 0 and 1 holds another value, or a row has
            several labels although `multi_label` is False.
    """
    if separator is not None and multi_label is False:
        raise DataError("--label-separator splits a cell into several labels, which --no-multi-label excludes.")
    soft = read_probabilities(table, columns.labels, source)
    if soft is not None:
        return _from_probabilities(soft, source, multi_label=multi_label)
    if len(columns.labels) > 1:
        sets = _from_indicators(table, columns.labels, source)
        if multi_label is False:
            return _one_each(sets, source)
        if multi_label is None and all(row is not None and len(row) == 1 for row in sets.rows):
            return replace(sets, notes=("every row has exactly one label; use --no-multi-label if that is always so",))
        return sets
    column = columns.labels[0]
    declared = tuple(_name(name, source) for name in table.classes.get(column, ()) if not _missing(name))
    notes = _unused_categories(table, column)
    values = table.columns[column]
    lists = read_lists(values, source)
    if lists is not None and is_vector(lists):
        raise DataError(
            f"{source}: column {column!r} holds vectors of 0 and 1, such as {lists[0]}, and the labels have no names. "
            "Write one column of 0 and 1 for each label, or lists of names."
        )
    if lists is None and multi_label is not True and separator is None:
        single: list[LabelSet | None] = [None if _missing(value) else (_name(value, source),) for value in values]
        return LabelSets(single, False, declared, (*notes, *_note_on_compounds(single)))
    if separator is None:
        separator = _separator(values) if lists is None else None
        if separator is not None:
            notes = (*notes, f"labels of a cell are separated by {separator!r} (detected; see --label-separator)")
    rows = [_names(value, separator, source) for value in lists or values]
    several = LabelSets(rows, True, declared, notes)
    if multi_label is False:
        return _one_each(several, source)
    if multi_label is None and separator is None and all(row is None or len(row) == 1 for row in rows):
        return replace(several, notes=(*notes, "every list has one label; use --no-multi-label if no row has several"))
    return several


def label_names(
    rows: Sequence[LabelSet], source: str, *, declared: Collection[str] = (), named: bool = False
) -> tuple[str, ...]:
    """Return every label that occurs or is declared: in numerical order if all are numbers, else in alphabetical order.

    `named` says that the user named the label column, so that it may have many labels.

    Raises:
        DataError: there are fewer than 2 labels, or more than a detected column may have, or a label has too few rows.
    """
    counts = Counter(name for row in rows for name in row)
    if len(counts) < 2:
        only = f"only the label {next(iter(counts))!r}" if counts else "no labels"
        raise DataError(f"{source} has {only}. A classifier needs at least 2 labels. Check --label-column.")
    numeric = all(_number(name) is not None for name in counts)
    if len(counts) > MAX_LABELS and not named:
        hint = "If they are numbers to predict, use --head number. " if numeric else ""
        raise DataError(
            f"{source} has {len(counts)} different labels. {hint}If they are the classes to learn, name their column "
            "with --label-column."
        )
    fractional = [name for name in counts if (number := _number(name)) is not None and number != int(number)]
    if fractional and len(counts) > 20:
        raise DataError(
            f"{source}: the labels are measurements, such as {fractional[0]}. To predict numbers, use --head number. "
            "Check --label-column; if they are names of classes, write them as words, such as "
            f"'class {fractional[0]}'."
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
    names = list(dict.fromkeys((*counts, *declared)))
    if all(_number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: _number(name) or 0.0))
    return tuple(sorted(names))


def encode(row: LabelSet, names: tuple[str, ...], *, multi_label: bool) -> Any:
    """Return the index of a row's label, or for a multi-label task 0 or 1 for every label."""
    if multi_label:
        return [int(name in row) for name in names]
    return names.index(row[0])


def _from_probabilities(rows: list[Probabilities | None], source: str, *, multi_label: bool | None) -> LabelSets:
    names = tuple(dict.fromkeys(_name(name, source) for row in rows if row is not None for name in row))
    alternatives = are_alternatives(rows, source, multi_label=multi_label)
    likely = [None if row is None else likely_labels(row, alternatives=alternatives) for row in rows]
    what = "the likeliest is the label of a row" if alternatives else f"a row has those of at least {LIKELY}"
    note = f"soft labels: probabilities of {len(names)} labels, which are learned in place of the labels; {what}"
    return LabelSets(list(likely), not alternatives, names, (note,), rows)


def _from_indicators(table: Table, columns: Sequence[str], source: str) -> LabelSets:
    names = tuple(_name(column, source) for column in columns)
    if len(set(names)) != len(names):
        raise DataError(f"{source}: two label columns have the same name. Columns: {', '.join(names)}. Rename one.")
    flags = zip(*(_indicators(table.columns[column], column, source) for column in columns), strict=True)
    return LabelSets([tuple(n for n, on in zip(names, row, strict=True) if on) for row in flags], True, names)


def _indicators(values: Sequence[Any], column: str, source: str) -> list[bool]:
    flags = []
    for row, value in enumerate(values, 1):
        flag = indicator(value, words=True)
        if flag is None:
            raise DataError(
                f"{source}: column {column!r} holds {value!r} in row {row}. A label column needs 0 or 1 (or false or "
                "true, no or yes) in every row: write 0 or 1, or remove the row."
            )
        flags.append(flag)
    return flags


def _one_each(sets: LabelSets, source: str) -> LabelSets:
    """Return the sets as single labels."""
    for number, row in enumerate(sets.rows, 1):
        if row is not None and len(row) > 1:
            raise DataError(
                f"{source}: row {number} has {len(row)} labels ({', '.join(row)}), which --no-multi-label excludes. "
                "Leave the option out, or keep one label."
            )
    return replace(sets, rows=[row or None for row in sets.rows], multi_label=False)


def _names(value: Any, separator: str | None, source: str) -> LabelSet | None:
    if value is None or value != value:  # an empty cell says that the row has none of the labels
        return None
    parts = value if isinstance(value, list) else _split(value, separator)
    return tuple(dict.fromkeys(_name(part, source) for part in parts if not _missing(part)))


def _split(value: Any, separator: str | None) -> list[Any]:
    return [value] if separator is None else str(value).split(separator)


def _separator(values: Sequence[Any]) -> str | None:
    """Return the separator of the labels in cells of text."""
    cells = {value.strip() for value in values if isinstance(value, str)}
    if any(USUAL_SEPARATOR in cell for cell in cells):
        return USUAL_SEPARATOR
    return next((separator for separator in SEPARATORS if _compound(cells, separator)), None)


def _compound(names: Collection[str], separator: str) -> list[str]:
    """Return the names that a separator splits into names that other labels share; none if that is chance."""
    compound = sorted(name for name in names if separator in name)
    parts = Counter(part.strip() for name in compound for part in name.split(separator))
    shared = [part for part, count in parts.items() if count > 1 or part in names]
    return compound if len(compound) > 1 and 2 * len(shared) > len(parts) else []


def _note_on_compounds(rows: Sequence[LabelSet | None]) -> Iterator[str]:
    """Describe labels that look like several."""
    names = {row[0] for row in rows if row}
    for separator in (*SEPARATORS, "/", " ", "\n"):
        if compound := _compound(names, separator):
            way_out = f"use --label-separator {separator!r}" if separator != "\n" else "separate them by ';'"
            yield f"labels such as {compound[0]!r} look like several: {way_out} if a row can have several labels"


def _unused_categories(table: Table, column: str) -> tuple[str, ...]:
    occurring = {str(value) for value in table.columns[column]} if column in table.categories else set()
    unused = [name for name in table.categories.get(column, ()) if name not in occurring]
    if not unused:
        return ()
    more = ", ..." if len(unused) > 5 else ""
    return (
        f"no row has these values of the label column's type, so they are no labels: {', '.join(unused[:5])}{more}",
    )


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # NaN


def _name(value: Any, source: str) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")  # Parquet files of old writers do not say that bytes are text
    if isinstance(value, dict | list):
        raise DataError(
            f"{source}: a label is a {type(value).__name__}, such as {str(value)[:60]}. Labels are text, numbers, or "
            "true and false: write a list of labels, or one column of 0 and 1 for each."
        )
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise DataError(f"{source}: the number {value} cannot be a label. Remove its rows, or write the label as text.")
    if isinstance(value, float | Decimal) and value == int(value):
        return str(int(value))
    name = str(value).strip()
    if not name.isascii():  # one label, whichever way its accents are written
        name = unicodedata.normalize("NFC", name.strip(INVISIBLE)).strip()
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise DataError(
            f"{source}: the label {name!a} contains half of a surrogate pair. Replace it with the whole character."
        )
    if "\x00" in name:
        raise DataError(f"{source}: the label {name!a} contains NUL. Remove it, or name the file's --encoding.")
    return name


def _number(name: str) -> float | None:
    """Return the finite number that a name spells, else None; "nan" and "Infinity" are ordinary words."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
