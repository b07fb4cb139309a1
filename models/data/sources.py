"""Sources of labelled text: a file, a folder of splits, a Hub data set, or the built-in default."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sparserve.models.data.defaults import MOVIE_SENTENCES, movie_sentences
from sparserve.models.data.tables import READERS, Table, read_table
from sparserve.models.errors import DataError, EnvironmentFault

# Names of the splits in file names and Hub data sets, in order of preference.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing"),
}


def read_tables(source: str | Path, *, header: bool | None, expected: Sequence[str], cache: Path) -> dict[str, Table]:
    """Return the table of every split of `source`; there is always "train".

    Raises:
        DataError: the source does not exist or cannot be read.
        EnvironmentFault: the source has to be downloaded and cannot be.
    """
    name, path = str(source), Path(source)
    if name == MOVIE_SENTENCES:
        return {"train": read_table(movie_sentences(cache))}
    read = partial(read_table, header=header, expected=expected)
    if path.is_dir():
        return _read_folder(path, read)
    if path.suffix.lower() in READERS or path.exists() or name.count("/") > 1:
        return {"train": read(path)}
    return _read_hub_dataset(name.removeprefix("hub:"))


def _read_folder(folder: Path, read: Callable[[Path], Table]) -> dict[str, Table]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        for split, stems in SPLIT_NAMES.items():
            if path.suffix.lower() in READERS and path.stem.lower() in stems:
                if split in files:
                    raise DataError(
                        f"{folder} has two files for the {split} split: {files[split].name} and {path.name}. "
                        "Remove one of them."
                    )
                files[split] = path
    if "train" not in files:
        raise DataError(
            f"{folder} has no training file. Name it train.csv or train.jsonl; validation and test files are optional."
        )
    return {split: read(path) for split, path in files.items()}


def _read_hub_dataset(name: str) -> dict[str, Table]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{name!r} is not a local file, so it must be a Hub data set id, and the package `datasets` is not "
            "installed. Install sparserve[hub], or give a file."
        ) from error
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, no access, a data set that is a script
        raise DataError(
            f"The Hub data set {name!r} cannot be loaded: {error}. Check its id, or give a file instead."
        ) from error
    tables: dict[str, Table] = {}
    for split, stems in SPLIT_NAMES.items():
        for stem in stems:
            if stem in splits and split not in tables:
                tables[split] = Table(_columns_with_label_names(splits[stem]))
    if "train" not in tables:
        raise DataError(f"The Hub data set {name!r} has no train split. Splits: {', '.join(splits)}.")
    # Some benchmarks publish their test split without labels, as -1.
    for split in ("test", "validation"):
        columns = tables[split].columns.values() if split in tables else ()
        if any(values and all(value == -1 for value in values) for values in columns):
            del tables[split]
    return tables


def _columns_with_label_names(rows: Any) -> dict[str, list[Any]]:
    columns = {}
    for name, feature in rows.features.items():
        values = list(rows[name])
        # A list of classes is a List or Sequence with the class feature; older data sets use a Python list.
        element = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        names = getattr(element, "names", None)
        columns[name] = [_label_name(value, names) for value in values] if names else values
    return columns


def _label_name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_label_name(element, names) for element in value]
    return names[value] if isinstance(value, int) and value >= 0 else value
