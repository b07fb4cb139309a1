"""Folders that are named after labels."""

from pathlib import Path

import pytest

from sparserve.models.data.sources.class_folders import find_class_folders
from sparserve.models.data.sources.source import read_tables
from sparserve.models.data.tables.table import ReadOptions
from tests.support.models.labelled import write


def made(root: Path, *folders: str, suffix: str = ".txt") -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(3):
            write(root / folder / f"{number}{suffix}", f"text {number}\nof {folder}")
    return root


@pytest.mark.parametrize("suffix", [".txt", ""])
def test_read_tables_takes_folders_as_labels(tmp_path: Path, suffix: str) -> None:
    tables, notes = read_tables(made(tmp_path, "neg", "pos", suffix=suffix), ReadOptions(), cache=tmp_path)
    assert tables["train"].columns["label"] == ["neg"] * 3 + ["pos"] * 3
    assert tables["train"].columns["text"][0] == "text 0\nof neg"
    assert notes == ["labels are the names of folders: neg, pos"]


def test_read_tables_takes_folders_as_labels_in_folders_of_splits(tmp_path: Path) -> None:
    made(tmp_path, "train/neg", "train/pos", "train/unsup", "test/neg", "test/pos")
    write(tmp_path / "train" / "urls_pos.txt", "an address")
    tables, _ = read_tables(tmp_path, ReadOptions(), cache=tmp_path)
    assert {name: len(table) for name, table in tables.items()} == {"train": 6, "test": 6}


def test_find_class_folders_leaves_other_layouts_alone(tmp_path: Path) -> None:
    assert not find_class_folders(str(made(tmp_path / "a", "neg")))
    assert not find_class_folders(str(made(tmp_path / "b", "neg", "pos", suffix=".csv")))
    assert not find_class_folders(str(made(tmp_path / "c", "train", "test")))
    assert not find_class_folders(str(tmp_path / "none"))
