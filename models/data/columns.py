"""Which column is the text, which its pair, and which the label: as named, or guessed where it is obvious."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sparserve.models.data.tables import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES, Table
from sparserve.models.errors import DataError

# Columns whose names make a pair although the second is a text of its own where it stands alone (QNLI).
PAIRS = (("question", "sentence"),)
MOST_LABELS = 200
INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True)
class Columns:
    """The columns that were chosen: `labels` has several names where each holds a 0 or 1 for one label."""

    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def roles(self) -> dict[str, str]:
        """Column names by what they are used for."""
        roles = {"text": self.text, "text_pair": self.text_pair, "label": ", ".join(self.labels)}
        return {role: name for role, name in roles.items() if name}


def choose_columns(
    table: Table, source: str, *, text: str | None, text_pair: str | None, label: str | None, multi_label: bool | None
) -> Columns:
    """Choose the columns of a table; what was guessed is said in `notes`.

    Raises:
        DataError: a named column is not there, or no guess is obvious.
    """
    names = list(table.columns)
    for option, name in (("--text-column", text), ("--text-pair-column", text_pair), ("--label-column", label)):
        if name is not None and name not in names:
            guessed = "" if table.named else " (it was taken to have no header; --header says that it has)"
            raise DataError(f"{source} has no column {name!r} ({option}); its columns: {', '.join(names)}{guessed}")
    notes: list[str] = []
    taken = {name for name in (text, text_pair, label) if name is not None}
    labels = (label,) if label is not None else _guess_labels(table, source, taken, multi_label, notes)
    taken |= set(labels)
    if text is None:
        text = _guess_text(table, source, taken)
        notes.append(f"the text is column {text!r} (guessed; --text-column names another)")
    taken.add(text)
    if text_pair is None:
        text_pair = _guess_pair(table, text, taken)
        if text_pair is not None:
            notes.append(f"the second text is column {text_pair!r} (guessed; --text-pair-column names another)")
    return Columns(text, text_pair, labels, tuple(notes))


def indicator(value: Any) -> bool | None:
    """Whether a cell of a column of its own label says that the row has it; None if it is no 0 or 1 in any spelling."""
    return INDICATORS.get(_plain(value).casefold())


def _guess_labels(
    table: Table, source: str, taken: set[str], multi_label: bool | None, notes: list[str]
) -> tuple[str, ...]:
    free = [name for name in table.columns if name not in taken]
    known = [name for name in free if name.strip().casefold() in LABEL_NAMES]
    if len(known) > 1:
        raise DataError(
            f"{source}: both {known[0]!r} and {known[1]!r} could be the label; choose one with --label-column"
        )
    if known:
        notes.append(f"the label is column {known[0]!r} (guessed; --label-column names another)")
        return (known[0],)
    binary = [name for name in free if all(indicator(value) is not None for value in table.columns[name])]
    if len(binary) > 1 and multi_label is not False and table.named:
        notes.append(f"multi-label: {', '.join(binary)} hold 0 or 1 for one label each (guessed)")
        return tuple(binary)
    few = [name for name in free if _is_categorical(table.columns[name])]
    if len(few) == 1:
        notes.append(f"the label is column {few[0]!r} (guessed by its few values; --label-column names another)")
        return (few[0],)
    if len(few) > 1:
        raise DataError(f"{source}: both {few[0]!r} and {few[1]!r} could be the label; choose one with --label-column")
    raise DataError(
        f"{source}: none of its columns ({', '.join(table.columns)}) looks like a label; name it with --label-column"
    )


def _guess_text(table: Table, source: str, taken: set[str]) -> str:
    free = [name for name in table.columns if name not in taken]
    by_name = {name.strip().casefold(): name for name in free}
    for first, second in PAIRS:
        if first in by_name and second in by_name:
            return by_name[first]
    for candidate in TEXT_NAMES:
        if candidate in by_name:
            return by_name[candidate]
    wordy = [name for name in free if _mean_length(table.columns[name]) >= 8]
    if len(free) == 1 or len(wordy) == 1:
        return (wordy or free)[0]
    columns = ", ".join(table.columns)
    raise DataError(f"{source}: which of its columns ({columns}) is the text? name it with --text-column")


def _guess_pair(table: Table, text: str, taken: set[str]) -> str | None:
    known = (*PAIR_NAMES, *(second for first, second in PAIRS if first == text.strip().casefold()))
    for name in table.columns:
        if name not in taken and name.strip().casefold() in known:
            return name
    if not table.named:
        wordy = [name for name in table.columns if name not in taken and _mean_length(table.columns[name]) >= 8]
        return wordy[0] if len(wordy) == 1 else None
    return None


def _is_categorical(values: list[Any]) -> bool:
    """Few values, each coming again."""
    try:
        distinct = set(map(_plain, values))
    except TypeError:
        return False
    longest = max(map(len, distinct), default=0)
    return 2 <= len(distinct) <= min(MOST_LABELS, max(len(values) // 3, 2)) and longest <= 60


def _plain(value: Any) -> str:
    return str(value).strip()


def _mean_length(values: Iterable[Any]) -> float:
    lengths = [len(value) for value in values if isinstance(value, str)]
    return sum(lengths) / len(lengths) if lengths else 0.0
