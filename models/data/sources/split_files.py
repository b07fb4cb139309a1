"""Files of splits, as people and hubs name them: one file a split, several shards, folders."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparserve.models.data.tables.reading import data_suffix, read_table
from sparserve.models.data.tables.table import SPLIT_NAMES, ReadOptions, Table, split_named
from sparserve.models.errors import DataError

MAX_DEPTH = 3
# Descriptions that the library `datasets` and hubs store beside the data.
DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
# The end of Spark's names, such as -c1d2e3f4-...-c000.snappy
_SPARK = (
    r"(?:(?:-tid-\d+)?-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-\d+)?(?:[-.]c\d+)?)?(?:\.(?:snappy|gz|zstd|lz4))?"
)
_SHARD = re.compile(
    r"(?P<name>.*?)[-_. ]?(?P<number>\d+)(?:[-_. ]?of[-_. ]?(?P<total>\d+))?(?:[-_][0-9a-f]{8,})?" + _SPARK
)
_CACHE = re.compile(r"cache-[0-9a-f]{8,}.*\.arrow")  # results of the library `datasets`, beside the data
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


@dataclass(frozen=True)
class _File:
    """A file of a table, and how its name says that it is of a split."""

    path: Path
    suffix: str
    split: str | None
    rank: int
    """0: named after the split; 1: a shard so named, or in a folder; 2: in a folder so named; 3: has it as a word."""


def exists(source: str) -> bool:
    """Return True if there is a file or folder of this name; no name raises an error."""
    return os.path.exists(source)


def is_pattern(source: str) -> bool:
    """Return True if a source is a pattern of file names, such as `train-*.parquet`."""
    return glob.has_magic(source) and not exists(source)


def find_splits(source: str) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of every split of a file, folder or pattern, and notes; there is always "train".

    Raises:
        DataError: there is no training file, or several that do not belong together.
    """
    if _URL.match(source) and not exists(source):
        raise DataError(f"{source} is an address, and only local files are read. Download it, and give the file.")
    if is_pattern(source):
        paths = [Path(path) for path in sorted(glob.glob(source, recursive=True)) if os.path.isfile(path)]
        if not paths:
            raise DataError(f"No file matches {source}.")
        return _arrange(source, Path(os.path.commonpath([path.parent for path in paths])), paths)
    if os.path.isdir(source):
        return _arrange(source, Path(source), sorted(_walk(Path(source))))
    return {"train": [Path(source)]}, []


def read_files(paths: Sequence[Path], options: ReadOptions) -> Table:
    """Read the shards of one split as one table.

    Raises:
        DataError: a file cannot be read, or has other columns than the first.
    """
    first = read_table(paths[0], options)
    if len(paths) == 1:
        return first
    columns: dict[str, list[Any]] = {name: list(values) for name, values in first.columns.items()}
    for path in paths[1:]:
        table = read_table(path, replace(options, expected=(*options.expected, *columns)))
        if first.named and not table.named and len(table.columns) == len(columns):
            table = Table(dict(zip(columns, table.columns.values(), strict=True)))  # only the first shard has a header
        if set(table.columns) != set(columns) or table.classes != first.classes:
            raise DataError(
                f"{path} has the columns {', '.join(table.columns)}, but {paths[0]} has {', '.join(columns)}. "
                "All files of a split need the same columns and labels."
            )
        for name, values in columns.items():
            values.extend(table.columns[name])
    return replace(first, columns=columns, format=f"{first.format}, {len(paths)} files")


def base_name(path: Path) -> str:
    """Return the name of a data file without the end, and without the number of a shard that has a total."""
    stem = _stem(path)
    match = _SHARD.fullmatch(stem)
    return match["name"] if match and match["total"] and match["name"] else stem


def siblings(paths: Sequence[Path]) -> list[str]:
    """Return a note if a single file is one of several shards."""
    match = _SHARD.fullmatch(_stem(paths[0])) if len(paths) == 1 else None
    if match is None or match["total"] is None or int(match["total"]) < 2:
        return []
    return [
        f"{paths[0].name} is one of {int(match['total'])} shards; give its folder, or a pattern, to read all of them"
    ]


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror}.") from error

    for where, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        depth = len(Path(where).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < MAX_DEPTH)
        for name in names:
            if not name.startswith(".") and name not in DESCRIPTIONS and data_suffix(name) and not _CACHE.match(name):
                yield Path(where) / name


def _arrange(source: str, root: Path, paths: Sequence[Path]) -> tuple[dict[str, list[Path]], list[str]]:
    files = [_classify(path, root) for path in paths]
    splits: dict[str, list[Path]] = {}
    for split in SPLIT_NAMES:
        own = [file for file in files if file.split == split]
        best = [file for file in own if file.rank == min(one.rank for one in own)]
        if best:
            splits[split] = _shards(source, split, best)
    if not splits:
        # A folder without names of splits: one file, or numbered shards. Texts beside data are usually descriptions.
        data = [file for file in files if not file.suffix.startswith(".txt")] or files
        tables = [file for file in data if not file.suffix.startswith(".json")] or data
        if tables and not (len(tables) > 1 and _are_unrelated(tables)):
            splits["train"] = _shards(source, "train", tables)
    if "train" not in splits:
        names = ", ".join(str(path.relative_to(root)) for path in paths[:5])
        raise DataError(
            f"{source} has no training file. Name it train.csv or train.jsonl; validation and test files are optional."
            + (f" Its data files: {names}{', ...' if len(paths) > 5 else ''}." if names else "")
        )
    used = {path for chosen in splits.values() for path in chosen}
    unused = [str(path.relative_to(root)) for path in paths if path not in used]
    notes = [f"files not used: {', '.join(unused[:5])}{', ...' if len(unused) > 5 else ''}"] if unused else []
    return splits, notes


def _are_unrelated(files: Sequence[_File]) -> bool:
    """Return True if files are not the numbered parts of one table."""
    matches = [_SHARD.fullmatch(_stem(file.path)) for file in files]
    return not all(matches) or len({match["name"] for match in matches if match}) > 1


def _classify(path: Path, root: Path) -> _File:
    stem, folders = _stem(path).casefold(), path.relative_to(root).parts[:-1]
    suffix = data_suffix(path.name) or path.suffix.lower()
    shard = _SHARD.fullmatch(stem)
    if split := split_named(stem):
        return _File(path, suffix, split, 1 if folders else 0)
    if shard and (split := split_named(shard["name"])):
        return _File(path, suffix, split, 1)
    for folder in reversed(folders):
        if split := split_named(folder):
            return _File(path, suffix, split, 2)
    words = [split for word in re.split(r"[^a-z]+", stem) if (split := split_named(word))]
    return _File(path, suffix, words[0] if len(set(words)) == 1 else None, 3)


def _shards(source: str, split: str, files: Sequence[_File]) -> list[Path]:
    """Return the files of a split in order, after checking that they are parts of one table."""
    paths = [file.path for file in files]
    if len(paths) == 1:
        _check_complete(source, split, paths)
        return paths
    names = ", ".join(path.name for path in paths[:3])
    if len({path.parent for path in paths}) > 1:
        folders = ", ".join(sorted({str(path.parent) for path in paths})[:5])
        if all("=" in path.parent.name for path in paths):
            raise DataError(
                f"{source} is partitioned by a column whose values are names of folders ({folders}). Write it again "
                "with that column in the files."
            )
        raise DataError(f"{source} has several data sets, in {folders}. Name one of these folders.")
    if len({file.suffix for file in files}) > 1 or _are_unrelated(files):
        raise DataError(
            f"{source} has {'two' if len(paths) == 2 else len(paths)} files for the {split} split: {names}. Remove all "
            "but one, or name the file."
        )
    _check_complete(source, split, paths)
    return sorted(paths, key=_number)


def _check_complete(source: str, split: str, paths: Sequence[Path]) -> None:
    totals = {int(match["total"]) for path in paths if (match := _SHARD.fullmatch(_stem(path))) and match["total"]}
    if len(totals) > 1 or (totals and len(paths) != min(totals)):
        raise DataError(
            f"{source} has {len(paths)} of the {max(totals)} shards of the {split} split. Download the others, or name "
            "the file to read."
        )


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(data_suffix(path.name) or path.suffix)]


def _number(path: Path) -> tuple[int, str]:
    match = _SHARD.fullmatch(_stem(path))
    return (int(match["number"]) if match else 0), path.name
