"""A source as the user names it: the built-in data, files, or a Hub data set."""

from pathlib import Path

from sparserve.models.data.defaults import MOVIE_SENTENCES, movie_sentences
from sparserve.models.data.sources.class_folders import find_class_folders, read_class_folders
from sparserve.models.data.sources.hub import read_hub_dataset
from sparserve.models.data.sources.split_column import by_split_column
from sparserve.models.data.sources.split_files import exists, find_splits, is_pattern, read_files, siblings
from sparserve.models.data.tables.reading import is_data_name, read_table
from sparserve.models.data.tables.table import ReadOptions, Table
from sparserve.models.errors import DataError

HUB = "hub:"


def is_hub_id(source: str) -> bool:
    """Return True if a source can only be the id of a Hub data set, not files."""
    if source == MOVIE_SENTENCES:
        return False
    if source.startswith(HUB):
        return True
    return not (exists(source) or is_data_name(source) or is_pattern(source) or source.count("/") > 1)


def read_tables(source: str | Path, options: ReadOptions, *, cache: Path) -> tuple[dict[str, Table], list[str]]:
    """Return the table of every split of `source`, and notes on its files; there is always "train".

    Raises:
        DataError: the source does not exist or cannot be read.
        EnvironmentFault: the source has to be downloaded and cannot be.
    """
    name = str(source)
    if name == MOVIE_SENTENCES:
        return {"train": read_table(movie_sentences(cache))}, []
    if is_hub_id(name):
        return read_hub_dataset(name.removeprefix(HUB)), []
    if folders := find_class_folders(name):
        return read_class_folders(folders, options)
    splits, notes = find_splits(name)
    tables = {split: read_files(files, options) for split, files in splits.items()}
    if list(splits) == ["train"]:
        notes += siblings(splits["train"])
        tables, more = by_split_column(tables["train"], named=options.expected)
        notes += more
    return tables, notes


def read_split(path: Path, options: ReadOptions) -> Table:
    """Read the files of one split: a file, a folder or a pattern of shards.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    splits, _ = find_splits(str(path))
    if len(splits) > 1:
        raise DataError(f"{path} holds several splits ({', '.join(splits)}). Name the files of one of them.")
    return read_files(next(iter(splits.values())), options)
