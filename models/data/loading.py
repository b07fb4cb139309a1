"""Where labelled text comes from: files, folders of splits, Hub data sets, and the built-in default."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparserve.models.data.columns import Columns, choose_columns
from sparserve.models.data.dataset import DataProblem, Dataset, DataSummary, Split, describe
from sparserve.models.data.defaults import MOVIE_SENTENCES, movie_sentences
from sparserve.models.data.labels import encode, label_names, label_sets
from sparserve.models.data.splitting import carve
from sparserve.models.data.tables import READERS, Table, read_table
from sparserve.models.errors import DataError, EnvironmentFault

FEWEST_ROWS = 20
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class _Options:
    text_column: str | None
    text_pair_column: str | None
    label_column: str | None
    label_separator: str | None
    multi_label: bool | None


@dataclass(frozen=True)
class _Rows:
    """Rows of one table, before labels become numbers."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[tuple[str, ...]]
    dropped: dict[str, int]


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
    data set; or `movie-sentences`, which is fetched into `cache`. `splits` names files of the "validation" and "test"
    splits. Splits that are not given are carved: a tenth each, stratified, with duplicates on one side.

    Raises:
        DataError: the source cannot be read or learned from.
        EnvironmentFault: it has to be fetched and cannot be.
    """
    notes: list[str] = []
    name = str(source)
    named = [column for column in (text_column, text_pair_column, label_column) if column is not None]
    read = partial(read_table, header=header, expected=named)
    if name == MOVIE_SENTENCES:
        tables = {"train": read_table(movie_sentences(cache or Path(".cache")))}
    elif Path(source).is_dir():
        tables = {key: read(path) for key, path in _split_files(Path(source)).items()}
    elif Path(source).suffix.lower() in READERS or Path(source).exists() or name.count("/") > 1:
        tables = {"train": read(Path(source))}
    else:
        tables = _from_hub(name.removeprefix("hub:"))
    for key, path in (splits or {}).items():
        tables[key] = read(path)
    options = _Options(text_column, text_pair_column, label_column, label_separator, multi_label)
    return _build(tables, Path(name).name if Path(name).exists() else name, options, notes, seed)


def _build(tables: dict[str, Table], source: str, options: _Options, notes: list[str], seed: int) -> Dataset:
    if not tables["train"].named and len(tables["train"]) == 1:
        raise DataError(f"{source} has a single row, a header perhaps: it needs rows with texts and labels")
    columns = choose_columns(
        tables["train"],
        source,
        text=options.text_column,
        text_pair=options.text_pair_column,
        label=options.label_column,
        multi_label=options.multi_label,
    )
    notes.extend(columns.notes)
    if not tables["train"].named:
        notes.append("the file has no header (guessed; --header says that it has)")
    read = {name: _rows(table, columns, f"{source} ({name})", options) for name, table in tables.items()}
    several = any(flag for _, flag in read.values())
    parts = {name: rows for name, (rows, _) in read.items()}
    names = label_names([label for rows in parts.values() for label in rows.labels], source, multi_label=several)
    problem: DataProblem = "multi_label_classification" if several else "single_label_classification"
    given = {
        name: Split(rows.texts, rows.pairs, [encode(row, names, multi_label=several) for row in rows.labels])
        for name, rows in parts.items()
    }
    if sum(map(len, given.values())) < FEWEST_ROWS:
        total = sum(map(len, given.values()))
        raise DataError(
            f"{source} has {total} rows that can be used; at least {FEWEST_ROWS} are needed to train and test"
        )
    final = _complete(given, notes, seed)
    for name, split in final.items():
        if not len(split):
            raise DataError(f"{source}: the {name} split is empty; give more rows or the split's own file")
    _check_train_labels(final, names, source, several)
    dropped: dict[str, int] = {}
    for rows in parts.values():
        for reason, count in rows.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    conflicting = _conflicts(final)
    if conflicting:
        notes.append(f"{conflicting:,} texts come with different labels")
    summary = DataSummary(source, columns.roles(), {}, {}, {}, {}, 0, 0, dropped, tuple(notes))
    return describe(Dataset(final["train"], final["validation"], final["test"], names, problem, summary))


def _rows(table: Table, columns: Columns, source: str, options: _Options) -> tuple[_Rows, bool]:
    for name in (columns.text, columns.text_pair, *columns.labels):
        if name is not None and name not in table.columns:
            raise DataError(f"{source} has no column {name!r}; its columns: {', '.join(table.columns)}")
    sets, several = label_sets(
        table, columns, source, separator=options.label_separator, multi_label=options.multi_label
    )
    texts = [_as_text(value, columns.text, row, source) for row, value in enumerate(table.columns[columns.text], 1)]
    pairs: list[str | None] | None = None
    if columns.text_pair is not None:
        values = enumerate(table.columns[columns.text_pair], 1)
        pairs = [_as_text(value, columns.text_pair, row, source) for row, value in values]
    dropped: dict[str, int] = {}
    kept: list[int] = []
    for row, labels in enumerate(sets):
        reason = None
        if not texts[row] or (pairs is not None and not pairs[row]):
            reason = "empty text"
        elif labels is None or (not several and not labels):
            reason = "no label"
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    if not kept:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise DataError(f"{source}: no row can be used ({reasons}); is {columns.text!r} the text's column?")
    return (
        _Rows(
            [texts[row] or "" for row in kept],
            [pairs[row] or "" for row in kept] if pairs is not None else None,
            [sets[row] or () for row in kept],
            dropped,
        ),
        several,
    )


def _as_text(value: Any, column: str, row: int, source: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(
            f"{source}: column {column!r} holds a {type(value).__name__} in row {row}, not text; "
            "name the text's column with --text-column"
        )
    # Tokenizers end a text at NUL or drop it without a word; lone surrogates cannot be encoded at all.
    return value.replace("\x00", " ").encode("utf-8", "replace").decode().strip() or None


def _complete(given: dict[str, Split], notes: list[str], seed: int) -> dict[str, Split]:
    """Carve the splits that were not given out of train; a given validation split is the test where there is none."""
    given = dict(given)
    if "validation" in given and "test" not in given:
        given["test"] = given.pop("validation")
        notes.append("no test split: the validation split is the test, and a tenth of train validates")
    notes.extend(_leaks(given))
    missing = [name for name in ("validation", "test") if name not in given]
    if missing:
        given |= carve(given["train"], missing, seed=seed)
    return given


def _leaks(given: Mapping[str, Split]) -> Iterator[str]:
    """What given splits have in common. They stay as they are: published figures are of the whole of them."""
    for name, earlier in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if name in given and earlier in given:
            known = set(given[earlier].duplicate_keys())
            found = sum(key in known for key in given[name].duplicate_keys())
            total = len(given[name])
            if found:
                yield (
                    f"{found:,} of {total:,} {name} rows ({100 * found / total:.3g} %) have a text that is also in "
                    f"{earlier}, so the {name} figures are too good: remove those texts from {earlier}"
                )


def _check_train_labels(splits: Mapping[str, Split], names: tuple[str, ...], source: str, several: bool) -> None:
    rows = {
        split: np.sum(part.labels, axis=0) if several else np.bincount(part.labels, minlength=len(names))
        for split, part in splits.items()
    }
    for index, name in enumerate(names):
        if not rows["train"][index]:
            where = " and ".join(f"{found[index]:,} of {split}" for split, found in rows.items() if found[index])
            raise DataError(
                f"{source}: the label {name!r} does not occur in the train split, but in {where}, so it cannot be "
                "learned: add rows of it to train, or remove those"
            )


def _conflicts(splits: Mapping[str, Split]) -> int:
    labels: dict[tuple[str, str], set[str]] = {}
    for split in splits.values():
        for key, label in zip(split.duplicate_keys(), split.labels, strict=True):
            labels.setdefault(key, set()).add(str(label))
    return sum(len(found) > 1 for found in labels.values())


def _split_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        for split, stems in SPLIT_NAMES.items():
            if path.suffix.lower() in READERS and path.stem.lower() in stems:
                if split in found:
                    raise DataError(
                        f"{folder} has two files for the {split} split: {found[split].name} and {path.name}"
                    )
                found[split] = path
    if "train" not in found:
        raise DataError(f"{folder} has no file such as train.csv or train.jsonl; it may also have validation and test")
    return found


def _from_hub(name: str) -> dict[str, Table]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{name!r} is no file here, so it is taken for a Hub data set id, and reading those needs the package "
            "`datasets`: install sparserve[hub], or give a file"
        ) from error
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, no access, a data set that is a script
        raise DataError(f"the Hub did not give a data set {name!r} ({error}); give a file instead") from error
    tables: dict[str, Table] = {}
    for split, stems in SPLIT_NAMES.items():
        for stem in stems:
            if stem in loaded and split not in tables:
                tables[split] = Table(_with_label_names(loaded[stem]))
    if "train" not in tables:
        raise DataError(f"the Hub data set {name!r} has no train split; it has {', '.join(loaded)}")
    # Some benchmarks publish their test split without labels, as -1.
    for split in ("test", "validation"):
        columns = tables[split].columns.values() if split in tables else ()
        if any(values and all(value == -1 for value in values) for values in columns):
            del tables[split]
    return tables


def _with_label_names(rows: Any) -> dict[str, list[Any]]:
    columns = {}
    for name, feature in rows.features.items():
        values = list(rows[name])
        # A list of classes is a List or Sequence of their feature or, as it was once written, a list with it.
        one = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        known = getattr(one, "names", None)
        columns[name] = [_named(value, known) for value in values] if known else values
    return columns


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and value >= 0 else value
