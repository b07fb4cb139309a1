"""Loading a data set: read its tables, choose columns, name the labels, complete the splits and summarise them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparserve.models.data.columns import Columns, choose_columns
from sparserve.models.data.dataset import DataProblem, Dataset, DataSummary, Split, describe
from sparserve.models.data.labels import encode, label_names, label_sets
from sparserve.models.data.sources import read_tables
from sparserve.models.data.splitting import carve
from sparserve.models.data.tables import Table, read_table
from sparserve.models.errors import DataError

MIN_ROWS = 20


@dataclass(frozen=True)
class _Options:
    text_column: str | None
    text_pair_column: str | None
    label_column: str | None
    label_separator: str | None
    multi_label: bool | None


@dataclass(frozen=True)
class _Rows:
    """The usable rows of one table, with labels as names."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[tuple[str, ...]]
    dropped: Counter[str]


def load_dataset(
    source: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_separator: str | None = None,
    header: bool | None = None,
    splits: Mapping[str, Path] | None = None,
    multi_label: bool | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> Dataset:
    """Read labelled text and split it.

    `source` is a CSV, TSV, JSON-lines or Parquet file; a folder with files named after the splits; the id of a Hub
    data set; or `movie-sentences`, which is downloaded into `cache`. `splits` gives files for the "validation" and
    "test" splits. Each missing split is a tenth of train, stratified, with duplicate texts in one split.

    Raises:
        DataError: the source cannot be read or is unfit for training.
        EnvironmentFault: the source has to be downloaded and cannot be.
    """
    name = str(source)
    named = [column for column in (text_column, text_pair_column, label_column) if column is not None]
    tables = read_tables(source, header=header, expected=named, cache=cache or Path(".cache"))
    for split, path in (splits or {}).items():
        tables[split] = read_table(path, header=header, expected=named)
    options = _Options(text_column, text_pair_column, label_column, label_separator, multi_label)
    return _build(tables, Path(name).name if Path(name).exists() else name, options, seed)


def _build(tables: Mapping[str, Table], source: str, options: _Options, seed: int) -> Dataset:
    for name, table in tables.items():
        if not table.named and len(table) == 1 and (name == "train" or tables["train"].named):
            raise DataError(
                f"{source} ({name}) has only one row, which may be a header. Add rows with a text and a label."
            )
    columns = choose_columns(
        tables["train"],
        source,
        text=options.text_column,
        text_pair=options.text_pair_column,
        label=options.label_column,
        multi_label=options.multi_label,
    )
    notes = list(columns.notes)
    if not tables["train"].named:
        notes.append("the file has no header row (detected; use --header if it has one)")
    parts, multi_label = _usable_rows(tables, columns, source, options)
    names = label_names([label for rows in parts.values() for label in rows.labels], source, multi_label=multi_label)
    given = {
        name: Split(rows.texts, rows.pairs, [encode(row, names, multi_label=multi_label) for row in rows.labels])
        for name, rows in parts.items()
    }
    total = sum(map(len, given.values()))
    if total < MIN_ROWS:
        raise DataError(f"{source} has {total} usable rows; at least {MIN_ROWS} are needed. Add rows.")
    splits = _complete_splits(given, notes, seed)
    _check_splits(splits, names, source, multi_label)
    conflicts = _count_conflicts(splits)
    if conflicts:
        notes.append(f"{conflicts:,} texts occur with different labels")
    dropped = dict(sum((rows.dropped for rows in parts.values()), Counter()))
    problem: DataProblem = "multi_label_classification" if multi_label else "single_label_classification"
    summary = DataSummary(source, columns.roles(), {}, {}, {}, {}, 0, 0, dropped, tuple(notes))
    return describe(Dataset(splits["train"], splits["validation"], splits["test"], names, problem, summary))


def _usable_rows(
    tables: Mapping[str, Table], columns: Columns, source: str, options: _Options
) -> tuple[dict[str, _Rows], bool]:
    """Return the usable rows of every table, and True if rows may have several labels."""
    parts: dict[str, _Rows] = {}
    flags: list[bool] = []
    for name, table in tables.items():
        rows, multi_label = _usable_rows_of(table, columns, f"{source} ({name})", options)
        parts[name] = rows
        flags.append(multi_label)
    return parts, any(flags)


def _usable_rows_of(table: Table, columns: Columns, source: str, options: _Options) -> tuple[_Rows, bool]:
    for name in (columns.text, columns.text_pair, *columns.labels):
        if name is not None and name not in table.columns:
            raise DataError(
                f"{source} has no column {name!r}. Columns: {', '.join(table.columns)}. All splits need "
                "the same columns."
            )
    labels, multi_label = label_sets(
        table, columns, source, separator=options.label_separator, multi_label=options.multi_label
    )
    texts = _texts(table, columns.text, source)
    pairs = _texts(table, columns.text_pair, source) if columns.text_pair is not None else None
    dropped: Counter[str] = Counter()
    usable: list[int] = []
    for row, names in enumerate(labels):
        if not texts[row] or (pairs is not None and not pairs[row]):
            dropped["empty text"] += 1
        elif names is None or (not multi_label and not names):
            dropped["no label"] += 1
        else:
            usable.append(row)
    if not usable:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise DataError(
            f"{source} has no usable rows ({reasons}). The text was read from column {columns.text!r} and the label "
            f"from {', '.join(columns.labels)!r}; use --text-column and --label-column to choose others."
        )
    return (
        _Rows(
            [texts[row] or "" for row in usable],
            [pairs[row] or "" for row in usable] if pairs is not None else None,
            [labels[row] or () for row in usable],
            dropped,
        ),
        multi_label,
    )


def _texts(table: Table, column: str, source: str) -> list[str | None]:
    return [_clean_text(value, column, row, source) for row, value in enumerate(table.columns[column], 1)]


def _clean_text(value: Any, column: str, row: int, source: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(
            f"{source}: column {column!r} holds a value of type {type(value).__name__} in row {row}, not text. "
            "Use --text-column to choose the text column."
        )
    # Tokenizers cut a text at NUL or drop it silently. Lone surrogates cannot be encoded at all.
    return value.replace("\x00", " ").encode("utf-8", "replace").decode().strip() or None


def _complete_splits(given: Mapping[str, Split], notes: list[str], seed: int) -> dict[str, Split]:
    """Carve the missing splits out of train. A validation split without a test split becomes the test split."""
    splits = dict(given)
    if "validation" in splits and "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append(
            "no test split: the validation split is used as the test split, and a tenth of train as validation"
        )
    notes.extend(_leaks(splits))
    missing = [name for name in ("validation", "test") if name not in splits]
    if missing:
        splits |= carve(splits["train"], missing, seed=seed)
    return splits


def _leaks(given: Mapping[str, Split]) -> Iterator[str]:
    """Describe texts that given splits share. The splits stay unchanged, as published results use all of their rows."""
    for name, earlier in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if name in given and earlier in given:
            known = set(given[earlier].duplicate_keys())
            shared = sum(key in known for key in given[name].duplicate_keys())
            total = len(given[name])
            if shared:
                yield (
                    f"{shared:,} of {total:,} {name} rows ({100 * shared / total:.3g} %) have a text that is also in "
                    f"{earlier}, so the {name} scores are too optimistic; remove those texts from {earlier}"
                )


def _check_splits(splits: Mapping[str, Split], names: tuple[str, ...], source: str, multi_label: bool) -> None:
    """Refuse an empty split and a label that train lacks."""
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"{source}: the {name} split is empty. Add rows, or give the {name} split as a file.")
    counts = {
        split: np.sum(part.labels, axis=0) if multi_label else np.bincount(part.labels, minlength=len(names))
        for split, part in splits.items()
    }
    for index, name in enumerate(names):
        if not counts["train"][index]:
            where = " and ".join(f"{count[index]:,} rows of {split}" for split, count in counts.items() if count[index])
            raise DataError(
                f"{source}: the label {name!r} does not occur in the train split, but in {where}, so it cannot be "
                "learned. Add rows with it to train, or remove those rows."
            )


def _count_conflicts(splits: Mapping[str, Split]) -> int:
    """Return the number of texts that occur with different labels."""
    labels: dict[tuple[str, str], set[str]] = {}
    for split in splits.values():
        for key, label in zip(split.duplicate_keys(), split.labels, strict=True):
            labels.setdefault(key, set()).add(str(label))
    return sum(len(variants) > 1 for variants in labels.values())
