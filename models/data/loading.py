"""Loading a data set: read its tables, choose columns, name the labels, complete the splits and summarise them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from sparserve.models.data.columns import Columns, choose_columns, read_options
from sparserve.models.data.dataset import DataProblem, Dataset, DataSummary, Split, describe
from sparserve.models.data.labels.label_sets import LabelSets, encode, label_names, label_sets
from sparserve.models.data.labels.names import merged_names, notes_on_names, way_out, with_new_labels
from sparserve.models.data.labels.soft_labels import Probabilities, in_order
from sparserve.models.data.numbers import NAMES, choose_head, notes_on_numbers, numbers, relevance_grades
from sparserve.models.data.options import DataOptions, Head
from sparserve.models.data.sources.source import read_split, read_tables
from sparserve.models.data.sources.split_files import exists
from sparserve.models.data.splitting import complete_splits
from sparserve.models.data.tables.table import Table
from sparserve.models.data.texts import damage, row_texts
from sparserve.models.errors import DataError

MIN_ROWS = 20
NO_LABEL = frozenset({"", "None", "nan", "-1", "-1.0"})  # some benchmarks publish their test split with -1
PREDICT = "`sparserve predict` labels them with a finished model"


@dataclass(frozen=True)
class _Rows:
    """The usable rows of one table, with labels as names."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[tuple[str, ...]]
    probabilities: list[Probabilities] | None
    dropped: Counter[str]


def load_dataset(
    source: str | Path,
    *,
    splits: Mapping[str, Path] | None = None,
    seed: int = 0,
    cache: Path | None = None,
    **options: Unpack[DataOptions],
) -> Dataset:
    """Read labelled text and split it.

    `source` is a CSV, TSV, JSON, Parquet or Arrow file; a folder with files named after the splits; a pattern of file
    names; the id of a Hub data set; or `movie-sentences`, which is downloaded into `cache`. `splits` gives files for
    the "validation" and "test" splits. Each missing split is a tenth of train, stratified, with duplicate texts in one
    split.

    Raises:
        DataError: the source cannot be read or is unfit for training.
        InputError: an option is wrong.
        EnvironmentFault: the source has to be downloaded and cannot be.
    """
    name = str(source)
    reading = read_options(options)
    tables, notes = read_tables(source, reading, cache=cache or Path(".cache"))
    for split, path in (splits or {}).items():
        tables[split] = read_split(path, reading)
    title = Path(name).name if exists(name) else name
    notes += dict.fromkeys(note for table in tables.values() for note in table.notes)
    return _build(tables, title, options, seed, notes, required=tuple(splits or ()))


def _build(
    tables: dict[str, Table],
    source: str,
    options: DataOptions,
    seed: int,
    notes: list[str],
    *,
    required: Sequence[str],
) -> Dataset:
    """Build the data set from its tables. A split of `required` must have labels; another may be left out."""
    train = tables["train"]
    tables = {name: table.with_names_of(train) for name, table in tables.items()}
    for name, table in tables.items():
        if not table.named and len(table) == 1 and (name == "train" or train.named):
            raise DataError(
                f"{source} ({name}) has only one row, which may be a header. Add rows with a text and a label."
            )
    columns = choose_columns(train, source, options)
    notes = [*notes, *columns.notes]
    head = choose_head(train, columns, options, notes)
    if not train.named:
        notes.append("the file has no header row (detected; use --header if it has one)")
    parts: dict[str, _Rows] = {}
    merged: Mapping[str, str] = {}
    sets: dict[str, LabelSets] = {}
    for name, table in tables.items():
        where = f"{source} ({name})"
        unlabelled = name != "train" and _unlabelled(table, train, columns)
        if unlabelled and name not in required:
            notes.append(f"the {name} split is left out: {unlabelled}; {PREDICT}")
            continue
        if unlabelled:
            raise DataError(f"{where}: {unlabelled}. Leave the file out: a {name} split is made of train; {PREDICT}.")
        _check_columns(table, columns, where)
        if head == "labels":
            sets[name] = label_sets(
                table,
                columns,
                where,
                separator=options.get("label_separator"),
                multi_label=options.get("multi_label"),
            )
        else:
            cells = numbers(table.columns[columns.labels[0]], columns.labels[0], where)
            sets[name] = LabelSets([None if number is None else (repr(number),) for number in cells], False)
        parts[name] = _usable_rows(table, columns, sets[name], where)
    notes += dict.fromkeys(note for read in sets.values() for note in read.notes)
    multi_label = any(read.multi_label for read in sets.values())
    if head == "labels":
        parts, merged = _with_one_name_each(parts, sets, options.get("label_map") or {}, notes)
        given, names = _with_labels(parts, sets, columns, options, source, merged, multi_label=multi_label)
    else:
        given, names = _with_numbers(parts, head, source, notes), (NAMES[head],)
        multi_label = head == "relevance"
    total = sum(map(len, given.values()))
    if total < MIN_ROWS:
        raise DataError(f"{source} has {total} usable rows; at least {MIN_ROWS} are needed. Add rows.")
    splits = complete_splits(given, notes, seed, by_first_text=head == "relevance")
    if head == "labels":
        notes += _check_splits(splits, names, source, multi_label)
    else:
        _check_no_split_is_empty(splits, source)
    conflicts = _count_conflicts(splits)
    if conflicts:
        notes.append(f"{conflicts:,} texts occur with different labels")
    notes += damage(text for split in splits.values() for text in split.texts)
    dropped = dict(sum((rows.dropped for rows in parts.values()), Counter()))
    problem: DataProblem = "multi_label_classification" if multi_label else "single_label_classification"
    if head == "number":
        problem = "regression"
    counted = DataSummary(
        source, columns.roles(), {}, {}, {}, {}, 0, 0, dropped, tuple(notes), train.format, multi_label
    )
    whole = describe(Dataset(splits["train"], splits["validation"], splits["test"], names, problem, counted))
    new_names = options.get("label_map") or {}
    return with_new_labels(whole, {old: new for old, new in new_names.items() if old not in merged})


def _with_labels(
    parts: Mapping[str, _Rows],
    sets: Mapping[str, LabelSets],
    columns: Columns,
    options: DataOptions,
    source: str,
    merged: Mapping[str, str],
    *,
    multi_label: bool,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Return the splits with the indices of their labels, and the names of the labels."""
    declared = dict.fromkeys(name for read in sets.values() for name in read.declared if name not in merged)
    names = label_names(
        [label for rows in parts.values() for label in rows.labels],
        source,
        declared=declared,
        named=bool(options.get("label_column")) or len(columns.labels) > 1,
    )
    given = {
        name: Split(
            rows.texts,
            rows.pairs,
            [encode(row, names, multi_label=multi_label) for row in rows.labels],
            None
            if rows.probabilities is None
            else [in_order(row, names, multi_label=multi_label) for row in rows.probabilities],
        )
        for name, rows in parts.items()
    }
    return given, names


def _with_one_name_each(
    parts: dict[str, _Rows], sets: Mapping[str, LabelSets], new_names: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, _Rows], dict[str, str]]:
    """Return the rows with one name for each label, and the other names; notes say which labels look alike."""
    counts = Counter(name for rows in parts.values() for row in rows.labels for name in row)
    declared = {name for read in sets.values() for name in read.declared}
    merged = merged_names({*counts, *declared}, {old: new.strip() for old, new in new_names.items()})
    if merged:
        notes.append(
            "one label under several names: " + ", ".join(f"{old} = {new}" for old, new in sorted(merged.items()))
        )
        parts = {split: _merged(rows, merged) for split, rows in parts.items()}
    notes += notes_on_names({name: count for name, count in counts.items() if name not in {*merged, *new_names}})
    return parts, merged


def _merged(rows: _Rows, merged: Mapping[str, str]) -> _Rows:
    def sums(row: Probabilities) -> Probabilities:
        total: dict[str, float] = {}
        for name, value in row.items():
            total[merged.get(name, name)] = total.get(merged.get(name, name), 0.0) + value
        return total

    return replace(
        rows,
        labels=[tuple(dict.fromkeys(merged.get(name, name) for name in row)) for row in rows.labels],
        probabilities=None if rows.probabilities is None else [sums(row) for row in rows.probabilities],
    )


def _with_numbers(parts: Mapping[str, _Rows], head: Head, source: str, notes: list[str]) -> dict[str, Split]:
    """Return the splits with a number for each row, or with a relevance between 0 and 1."""
    values = {name: [float(row[0]) for row in rows.labels] for name, rows in parts.items()}
    everything = [value for part in values.values() for value in part]
    if head == "number":
        notes += notes_on_numbers(everything, source)
        labels: dict[str, list[Any]] = {name: list(part) for name, part in values.items()}
    else:
        highest = relevance_grades(everything, source)
        if highest != 1:
            notes.append(f"relevance is divided by the highest grade, {highest:g}")
        labels = {name: [[value / highest] for value in part] for name, part in values.items()}
    return {name: Split(rows.texts, rows.pairs, labels[name]) for name, rows in parts.items()}


def _unlabelled(table: Table, train: Table, columns: Columns) -> str:
    """Return the reason why no row of a split has a label; empty if one has."""
    missing = [name for name in columns.labels if name not in table.columns]
    if missing and not set(columns.labels) & set(table.columns):
        return f"it has no column {missing[0]!r}"
    for name in set(columns.labels) & set(table.columns):
        own, learned = ({str(value).strip() for value in one.columns[name]} for one in (table, train))
        if own <= NO_LABEL and not learned <= NO_LABEL:
            return f"no row has a label in column {name!r}"
    return ""


def _check_columns(table: Table, columns: Columns, source: str) -> None:
    for name in columns.all:
        if name not in table.columns:
            raise DataError(
                f"{source} has no column {name!r}. Columns: {', '.join(table.columns)}. All splits need "
                "the same columns."
            )


def _usable_rows(table: Table, columns: Columns, sets: LabelSets, source: str) -> _Rows:
    labels = sets.rows
    texts = row_texts(table, columns.text, source)
    pairs = row_texts(table, [columns.text_pair], source) if columns.text_pair is not None else None
    dropped: Counter[str] = Counter()
    usable: list[int] = []
    for row, names in enumerate(labels):
        if not texts[row] or (pairs is not None and not pairs[row]):
            dropped["empty text"] += 1
        elif names is None or (not sets.multi_label and not names):
            dropped["no label"] += 1
        else:
            usable.append(row)
    if not usable:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        hint = f" Training needs labelled rows; {PREDICT}." if "no label" in dropped else ""
        raise DataError(
            f"{source} has no usable rows ({reasons}). The text was read from column {', '.join(columns.text)!r} and "
            f"the label from {', '.join(columns.labels)!r}; use --text-column and --label-column to choose others."
            f"{hint}"
        )
    return _Rows(
        [texts[row] or "" for row in usable],
        [pairs[row] or "" for row in usable] if pairs is not None else None,
        [labels[row] or () for row in usable],
        None if sets.probabilities is None else [sets.probabilities[row] or {} for row in usable],
        dropped,
    )


def _check_no_split_is_empty(splits: Mapping[str, Split], source: str) -> None:
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"{source}: the {name} split is empty. Add rows, or give the {name} split as a file.")


def _check_splits(splits: Mapping[str, Split], names: tuple[str, ...], source: str, multi_label: bool) -> list[str]:
    """Refuse an empty split and a label that train alone lacks; return notes on declared labels without a row."""
    _check_no_split_is_empty(splits, source)
    counts = {
        split: np.sum(part.labels, axis=0) if multi_label else np.bincount(part.labels, minlength=len(names))
        for split, part in splits.items()
    }
    unseen = []
    for index, name in enumerate(names):
        if not counts["train"][index]:
            where = " and ".join(f"{count[index]:,} rows of {split}" for split, count in counts.items() if count[index])
            if not where:
                unseen.append(name)
                continue
            raise DataError(
                f"{source}: the label {name!r} does not occur in the train split, but in {where}, so it cannot be "
                f"learned. Add rows with it to train, or remove those rows.{way_out(name, names)}"
            )
    if not unseen:
        return []
    more = ", ..." if len(unseen) > 5 else ""
    return [f"declared labels that no row has, so the model cannot learn them: {', '.join(unseen[:5])}{more}"]


def _count_conflicts(splits: Mapping[str, Split]) -> int:
    """Return the number of texts that occur with different labels."""
    labels: dict[tuple[str, str], set[str]] = {}
    for split in splits.values():
        for key, label in zip(split.duplicate_keys(), split.labels, strict=True):
            labels.setdefault(key, set()).add(str(label))
    return sum(len(variants) > 1 for variants in labels.values())
