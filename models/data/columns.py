"""The text, text-pair and label columns of a table: named by the user, or detected where the choice is obvious."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sparserve.models.data.tables import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES, Table
from sparserve.models.errors import DataError

# Names that form a pair together, although the second one is a text when it stands alone (QNLI).
PAIRS = (("question", "sentence"),)
MAX_LABELS = 200
INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True)
class Columns:
    """The chosen columns. `labels` has several names if each of them holds 0 or 1 for one label."""

    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def roles(self) -> dict[str, str]:
        """Return the column names by role: text, text_pair, label."""
        roles = {"text": self.text, "text_pair": self.text_pair, "label": ", ".join(self.labels)}
        return {role: name for role, name in roles.items() if name}


def choose_columns(
    table: Table, source: str, *, text: str | None, text_pair: str | None, label: str | None, multi_label: bool | None
) -> Columns:
    """Choose the columns of a table. Each detected column adds a line to `notes`.

    Raises:
        DataError: a named column does not exist, or no column is the obvious choice.
    """
    names = list(table.columns)
    for option, name in (("--text-column", text), ("--text-pair-column", text_pair), ("--label-column", label)):
        if name is not None and name not in names:
            header = "" if table.named else " No header row was detected; use --header if the file has one."
            raise DataError(f"{source} has no column {name!r} ({option}). Columns: {', '.join(names)}.{header}")
    chosen = [name for name in (text, text_pair, label) if name is not None]
    if len(set(chosen)) != len(chosen):
        raise DataError(
            f"{source}: --text-column, --text-pair-column and --label-column need different columns, not {chosen}."
        )
    notes: list[str] = []
    used = {name for name in (text, text_pair, label) if name is not None}
    labels = (label,) if label is not None else _detect_labels(table, source, used, multi_label, notes)
    used |= set(labels)
    if text is None:
        text = _detect_text(table, source, used)
        notes.append(f"text column: {text!r} (detected; use --text-column to choose another)")
    used.add(text)
    if text_pair is None:
        text_pair = _detect_pair(table, text, used)
        if text_pair is not None:
            notes.append(f"second text column: {text_pair!r} (detected; use --text-pair-column to choose another)")
    return Columns(text, text_pair, labels, tuple(notes))


def indicator(value: Any) -> bool | None:
    """Return a cell's 0 or 1, in any spelling, as a boolean; None if it is neither."""
    return INDICATORS.get(_plain(value).casefold())


def _detect_labels(
    table: Table, source: str, used: set[str], multi_label: bool | None, notes: list[str]
) -> tuple[str, ...]:
    free = [name for name in table.columns if name not in used]
    known = [name for name in free if name.strip().casefold() in LABEL_NAMES]
    if len(known) > 1:
        raise _ambiguous_label(source, known)
    if known:
        notes.append(f"label column: {known[0]!r} (detected; use --label-column to choose another)")
        return (known[0],)
    binary = [name for name in free if all(indicator(value) is not None for value in table.columns[name])]
    if len(binary) > 1 and multi_label is not False and table.named:
        notes.append(f"multi-label: each of {', '.join(binary)} holds 0 or 1 for one label (detected)")
        return tuple(binary)
    categorical = [name for name in free if _is_categorical(table.columns[name])]
    if len(categorical) == 1:
        notes.append(
            f"label column: {categorical[0]!r} (detected by its few values; use --label-column to choose another)"
        )
        return (categorical[0],)
    if len(categorical) > 1:
        raise _ambiguous_label(source, categorical)
    raise DataError(
        f"{source}: no column looks like a label. Columns: {', '.join(table.columns)}. Choose one with --label-column."
    )


def _ambiguous_label(source: str, candidates: list[str]) -> DataError:
    return DataError(
        f"{source}: both {candidates[0]!r} and {candidates[1]!r} could be the label. Choose one with --label-column."
    )


def _detect_text(table: Table, source: str, used: set[str]) -> str:
    free = [name for name in table.columns if name not in used]
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
    raise DataError(f"{source}: no column is clearly the text. Columns: {columns}. Choose one with --text-column.")


def _detect_pair(table: Table, text: str, used: set[str]) -> str | None:
    known = (*PAIR_NAMES, *(second for first, second in PAIRS if first == text.strip().casefold()))
    for name in table.columns:
        if name not in used and name.strip().casefold() in known:
            return name
    if not table.named:
        wordy = [name for name in table.columns if name not in used and _mean_length(table.columns[name]) >= 8]
        return wordy[0] if len(wordy) == 1 else None
    return None


def _is_categorical(values: list[Any]) -> bool:
    """Return True for a column of few, short, repeated values."""
    try:
        distinct = set(map(_plain, values))
    except TypeError:
        return False
    longest = max(map(len, distinct), default=0)
    return 2 <= len(distinct) <= min(MAX_LABELS, max(len(values) // 3, 2)) and longest <= 60


def _plain(value: Any) -> str:
    return str(value).strip()


def _mean_length(values: Iterable[Any]) -> float:
    lengths = [len(value) for value in values if isinstance(value, str)]
    return sum(lengths) / len(lengths) if lengths else 0.0
