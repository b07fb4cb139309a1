"""The text, text-pair and label columns of a table: named by the user, or detected where the choice is obvious."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparserve.models.data.options import DataOptions
from sparserve.models.data.tables.table import LABEL_NAMES, MORE_TEXT_NAMES, PAIR_NAMES, TEXT_NAMES, ReadOptions, Table
from sparserve.models.errors import DataError

# Names that form a pair together, although the second one is a text when it stands alone (QNLI).
PAIRS = (("question", "sentence"),)
MAX_LABELS = 200
INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
INDICATOR_WORDS = {"no": False, "yes": True, "n": False, "y": True, "f": False, "t": True}


@dataclass(frozen=True)
class TextColumns:
    """The chosen columns of the texts. Those of `text` are joined."""

    text: tuple[str, ...]
    text_pair: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """The chosen columns. `labels` has several names if each of them holds 0 or 1 for one label."""

    text: tuple[str, ...]
    text_pair: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every chosen column."""
        return (*self.text, *([self.text_pair] if self.text_pair is not None else []), *self.labels)

    def roles(self) -> dict[str, str]:
        """Return the column names by role: text, text_pair, label."""
        roles = {"text": ", ".join(self.text), "text_pair": self.text_pair or "", "label": ", ".join(self.labels)}
        return {role: name for role, name in roles.items() if name}


def named_columns(options: DataOptions) -> dict[str, tuple[str, ...]]:
    """Return the columns that the user named, by option."""
    text, pair, label = (options.get("text_column"), options.get("text_pair_column"), options.get("label_column"))
    return {
        "--text-column": _as_tuple(text),
        "--text-pair-column": (pair,) if pair else (),
        "--label-column": _as_tuple(label),
    }


def read_options(options: DataOptions, *, lines: bool = False) -> ReadOptions:
    """Return the options of a data set's files. With `lines`, files of text need no columns."""
    return ReadOptions(
        header=options.get("header"),
        delimiter=options.get("delimiter"),
        quote=options.get("quote"),
        escape=options.get("escape"),
        encoding=options.get("encoding"),
        expected=tuple(name for names in named_columns(options).values() for name in names),
        lines=lines,
    )


def choose_columns(table: Table, source: str, options: DataOptions) -> Columns:
    """Choose the columns of a table. Each detected column adds a line to `notes`.

    Raises:
        DataError: a named column does not exist, or no column is the obvious choice.
    """
    named = _existing(table, source, options)
    used = {name for names in named.values() for name in names}
    notes: list[str] = []
    labels = named["--label-column"] or _detect_labels(table, source, used, options.get("multi_label"), notes)
    if len(labels) == 1 and table.named:
        notes += _note_on_names(table, labels[0], used | set(labels))
    texts = _choose_texts(table, source, options, used | set(labels))
    return Columns(texts.text, texts.text_pair, labels, (*notes, *texts.notes))


def choose_text_columns(table: Table, source: str, options: DataOptions) -> TextColumns:
    """Choose the columns of the texts in a table without labels, as `choose_columns` does.

    Raises:
        DataError: a named column does not exist, or no column is the obvious choice.
    """
    named = _existing(table, source, options)
    known = {name for name in table.columns if name.strip().casefold() in LABEL_NAMES}
    return _choose_texts(table, source, options, {name for names in named.values() for name in names} | known)


def _existing(table: Table, source: str, options: DataOptions) -> dict[str, tuple[str, ...]]:
    """Return the named columns after checking that they exist and differ."""
    named = named_columns(options)
    for option, names in named.items():
        for name in names:
            if name not in table.columns:
                header = "" if table.named else " No header row was detected; use --header if the file has one."
                raise DataError(
                    f"{source} has no column {name!r} ({option}). Columns: {', '.join(table.columns)}.{header}"
                )
    chosen = [name for names in named.values() for name in names]
    if len(set(chosen)) != len(chosen):
        raise DataError(
            f"{source}: --text-column, --text-pair-column and --label-column need different columns, not {chosen}."
        )
    return named


def _choose_texts(table: Table, source: str, options: DataOptions, used: set[str]) -> TextColumns:
    text, pair = _as_tuple(options.get("text_column")), options.get("text_pair_column")
    detected = not text
    notes: list[str] = []
    if not text:
        text = (_detect_text(table, source, used),)
        if len(table.columns) > 1:
            notes.append(f"text column: {text[0]!r} (detected; use --text-column to choose another)")
    used = used | set(text)
    # Several text columns are the whole text, and an empty name says that there is no second one.
    if pair is None and len(text) == 1:
        pair = _detect_pair(table, text[0], used)
        if pair is not None:
            notes.append(
                f"second text column: {pair!r} (detected; use --text-pair-column to choose another, or '' for none)"
            )
    free, known = [name for name in table.columns if name not in used and name != pair], (*TEXT_NAMES, *MORE_TEXT_NAMES)
    others = [name for name in free if _is_prose(table.columns[name], known=name.strip().casefold() in known)]
    if detected and others:
        join = " ".join(f"--text-column {name!r}" for name in (*text, *others))
        notes.append(f"not used, although it holds text: {', '.join(map(repr, others))}; to join the texts, use {join}")
    if len(text) > 1:
        notes.append(f"texts are joined by a space: {' + '.join(text)}; write requests to the service in the same way")
    return TextColumns(text, pair or None, tuple(notes))


def _as_tuple(names: str | Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def indicator(value: Any, *, words: bool = False) -> bool | None:
    """Return a cell's 0 or 1, in any spelling, as a boolean; None if it is neither. With `words`, also no or yes."""
    cell = _plain(value).casefold()
    flag = INDICATORS.get(cell)
    return INDICATOR_WORDS.get(cell) if flag is None and words else flag


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
    if len(binary) > 1 and table.named and (multi_label is not False or _is_one_hot(table, binary)):
        notes.append(
            f"{'single' if multi_label is False else 'multi'}-label: each of {', '.join(binary)} holds 0 or 1 for one "
            "label (detected; use --label-column to choose others)"
        )
        return tuple(binary)
    categorical = [name for name in free if _is_categorical(table.columns[name])]
    if len(categorical) == 1:
        notes.append(
            f"label column: {categorical[0]!r} (detected by its few values; use --label-column to choose another)"
        )
        return (categorical[0],)
    if len(categorical) > 1:
        raise _ambiguous_label(source, categorical)
    measured = [name for name in free if _is_measured(table.columns[name])]
    if len(measured) == 1 and table.named:
        notes.append(f"label column: {measured[0]!r} (detected by its numbers; use --label-column to choose another)")
        return (measured[0],)
    hint = ""
    if len(table.columns) == 1 and table.format.startswith("CSV"):
        hint = f" The file was read with {table.format.removeprefix('CSV, ')}: use --delimiter if it has another one."
    raise DataError(
        f"{source}: no column looks like a label. Columns: {', '.join(table.columns)}. Choose one with --label-column."
        f"{hint} Training needs labelled rows; `sparserve predict` labels texts with a finished model."
    )


def _is_one_hot(table: Table, columns: Sequence[str]) -> bool:
    rows = zip(*(table.columns[name] for name in columns), strict=True)
    return all(sum(map(bool, map(indicator, row))) == 1 for row in rows)


def _note_on_names(table: Table, label: str, used: Collection[str]) -> list[str]:
    """Return a note if another column names the numbers of the label column, as `label_text` does."""
    numbers = [_plain(value) for value in table.columns[label]]
    values = set(numbers)
    if not all(value.lstrip("-").replace(".", "", 1).isdigit() for value in values if value):
        return []
    for name, cells in table.columns.items():
        if name in used or not any(isinstance(cell, str) and any(map(str.isalpha, cell)) for cell in cells):
            continue
        if 2 <= len(values) == len(set(zip(numbers, map(_plain, cells), strict=True))) == len(set(map(_plain, cells))):
            return [f"column {name!r} has one name for each value of {label!r}: use --label-column {name!r} for names"]
    return []


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
    raise DataError(
        f"{source}: no column is clearly the text. Columns: {', '.join(table.columns)}. Choose one with --text-column, "
        "or several to join them."
    )


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


def _is_measured(values: list[Any]) -> bool:
    """Return True for a column of numbers of which some are fractions, so neither ids nor counts."""
    try:
        cells = [float(value) for value in values if value is not None and _plain(value)]
    except (TypeError, ValueError):
        return False
    return any(not cell.is_integer() for cell in cells)


def _is_prose(values: list[Any], *, known: bool) -> bool:
    """Return True for a column of mostly different texts of several words, so neither ids nor dates nor categories.

    A column whose name is `known` as that of a text may have short ones.
    """
    texts = [value for value in values if isinstance(value, str) and any(map(str.isalpha, value))]
    # Chinese and Japanese have no spaces between words.
    words = [sum(any(map(str.isalpha, word)) for word in text.split()) + len(text) // 8 for text in texts[:1000]]
    return 2 * len(set(texts)) > max(len(texts), 1) and (known or sum(words) >= 3 * len(words))


def _plain(value: Any) -> str:
    return str(value).strip()


def _mean_length(values: Iterable[Any]) -> float:
    lengths = [len(value) for value in values if isinstance(value, str)]
    return sum(lengths) / len(lengths) if lengths else 0.0
