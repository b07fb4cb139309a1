"""A column that names the split of each row."""

from typing import Any

import pytest

from sparserve.models.data.sources.split_column import by_split_column
from sparserve.models.data.tables.table import Table


def split(values: list[Any], name: str = "split", **options: Any) -> tuple[dict[str, int], list[str]]:
    table = Table({"text": [f"t {i}" for i in range(len(values))], name: values})
    parts, notes = by_split_column(table, named=options.get("named", ()))
    assert options or all(name not in part.columns for part in parts.values()) or not notes or "not used" in notes[0]
    return {split: len(part) for split, part in parts.items()}, notes


@pytest.mark.parametrize("name", ["split", "Split", "subset", "dataset_split"])
def test_by_split_column_takes_the_splits(name: str) -> None:
    parts, notes = split(["train", "Train", "dev", "test", "train "], name)
    assert parts == {"train": 3, "validation": 1, "test": 1}
    assert "splits by column" in notes[0]


@pytest.mark.parametrize("values", [["train", "extra"], ["a", "b"], ["train", None], ["test", "test"]])
def test_by_split_column_says_that_it_is_not_used(values: list[Any]) -> None:
    parts, notes = split(values)
    assert parts == {"train": 2}
    assert "column 'split' is not used" in notes[0]


def test_by_split_column_leaves_named_and_other_columns_alone() -> None:
    assert split(["train", "test"], named=("split",)) == ({"train": 2}, [])
    assert split(["1", "2"], "fold") == ({"train": 2}, [])
    assert split(["train", "test"], "kind") == ({"train": 2}, [])
