"""One folder for each label, with one text in each file, as in aclImdb or as scikit-learn's `load_files` reads them."""

import os
from collections.abc import Mapping
from pathlib import Path

from sparserve.models.data.sources.split_files import exists
from sparserve.models.data.tables.decoding import decode, read_bytes
from sparserve.models.data.tables.reading import TEXT_SUFFIX, data_suffix
from sparserve.models.data.tables.table import ReadOptions, Table, split_named

UNLABELLED = frozenset({"unsup", "unlabeled", "unlabelled"})
ClassFiles = Mapping[str, list[Path]]


def find_class_folders(source: str) -> dict[str, ClassFiles]:
    """Return the files of each label by split; empty if a folder has another layout.

    Labels are folders beside each other, or in folders named after splits.
    """
    root = Path(source)
    if not exists(source) or not root.is_dir() or _has_tables(root):
        return {}
    splits = {split: folder for folder in _folders(root) if (split := split_named(folder.name))}
    found = {split: _labels(folder) for split, folder in splits.items()} if splits else {"train": _labels(root)}
    return {split: files for split, files in found.items() if files} if found.get("train") else {}


def read_class_folders(splits: Mapping[str, ClassFiles], options: ReadOptions) -> tuple[dict[str, Table], list[str]]:
    """Return the table of every split, and a note on how it was read.

    Raises:
        DataError: a file cannot be read.
    """
    form = "one folder for each label, one text in each file"
    tables = {}
    for split, labels in splits.items():
        pairs = [(_text(path, options), label) for label, paths in labels.items() for path in paths]
        columns = {"text": [text for text, _ in pairs], "label": [label for _, label in pairs]}
        tables[split] = Table(columns, format=form)
    return tables, [f"labels are the names of folders: {', '.join(list(splits['train'])[:5])}"]


def _text(path: Path, options: ReadOptions) -> str:
    return decode(read_bytes(path), path, options.encoding)[0]


def _labels(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each label's folder; empty if they are no texts of labels."""
    labels = {}
    for label in _folders(folder):
        if label.name.casefold() in UNLABELLED:
            continue
        if any(_folders(label)):
            return {}
        labels[label.name] = sorted(
            path for path in label.iterdir() if not path.name.startswith(".") and path.is_file()
        )
    files = [path for paths in labels.values() for path in paths]
    if len(labels) < 2 or len(files) < 2 * len(labels) or not all(labels.values()):
        return {}
    return labels if all(path.suffix.lower() in (TEXT_SUFFIX, "") for path in files) else {}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def _has_tables(root: Path) -> bool:
    """Return True if a folder holds a file of a table, besides texts."""
    for _, _, names in os.walk(root):
        if any((suffix := data_suffix(name)) and suffix != TEXT_SUFFIX for name in names):
            return True
    return False
