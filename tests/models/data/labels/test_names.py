"""Labels under several names, and labels that look like none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.data.labels.names import merged_names, notes_on_names, way_out
from sparserve.models.data.loading import load_dataset
from sparserve.models.errors import DataError
from tests.support.models.labelled import csv_text, rows, write


@pytest.mark.parametrize(
    ("names", "new_names", "merged"),
    [
        (["0", "1", "1.0"], {}, {"1.0": "1"}),
        (["0.0", "1.0", "2.5"], {}, {}),
        (["neg", "Neg", "pos"], {"Neg": "neg"}, {"Neg": "neg"}),
        (["a", "b", "c"], {"a": "x", "b": "x"}, {"b": "a"}),
        (["a", "b"], {"a": "b", "b": "a"}, {}),
    ],
)
def test_merged_names_makes_labels_one(names: list[str], new_names: Mapping[str, str], merged: dict[str, str]) -> None:
    assert merged_names(names, new_names) == merged


@pytest.mark.parametrize(("name", "other"), [("Neg", "neg"), ("very_good", "Very good"), ("01", "1"), ("ﬁne", "fine")])
def test_names_look_alike_without_case_spaces_and_spelling(name: str, other: str) -> None:
    assert f"If it is the same as {other!r}, use --label-map" in way_out(name, [name, other])
    assert way_out(name, [name, "else"]) == ""
    assert f"{name!r} and {other!r}" in "".join(notes_on_names({name: 3, other: 9, "else": 9}))


@pytest.mark.parametrize("word", ["NA", "nan", "#N/A", "\\N", "None"])
def test_notes_on_names_tells_words_for_missing_values(word: str) -> None:
    assert f"the label {word!r} (3 rows)" in "".join(notes_on_names({"a": 9, "b": 9, word: 3}))


def test_notes_on_names_tells_a_negative_class() -> None:
    assert "'-1'" in "".join(notes_on_names({"0": 9, "1": 9, "-1": 3}))
    assert not list(notes_on_names({"-1": 9, "1": 9, "-2": 3}))


def cells(*labels: Any) -> str:
    return csv_text(
        [{"text": f"{row['text']} {i}", "label": labels[i % len(labels)]} for i, row in enumerate(rows(40))]
    )


def test_load_dataset_reads_one_label_in_two_spellings(tmp_path: Path) -> None:
    train, test = cells("0.0", "1.0"), cells("0", "1").replace("text ", "other ").replace("other ,", "text,")
    write(tmp_path / "train.csv", train), write(tmp_path / "test.csv", test.replace("\nother", "\ntest"))
    dataset = load_dataset(tmp_path)
    assert dataset.label_names == ("0", "1")
    assert "one label under several names: 0.0 = 0, 1.0 = 1" in dataset.summary.notes


def test_load_dataset_merges_labels_that_the_user_maps(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", cells("neg", "pos", "Neg", "POS"))
    assert "labels that differ in spelling only" in " ".join(load_dataset(path).summary.notes)
    dataset = load_dataset(path, label_map={"Neg": "neg", "POS": "pos"})
    assert dataset.summary.labels == {"neg": 20, "pos": 20}
    renamed = load_dataset(path, label_map={"Neg": "bad", "neg": "bad", "POS": "pos"})
    assert renamed.summary.labels == {"bad": 20, "pos": 20}
    with pytest.raises(DataError, match=r"--label-map: the data has no label 'x'"):
        load_dataset(path, label_map={"x": "y"})


def test_load_dataset_takes_labels_that_look_the_same_as_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", cells("\u00e9t\u00e9", "bar", "e\u0301te\u0301", "bar\u200b", "bar\u00a0", "bar"))
    assert load_dataset(path).label_names == ("bar", "\u00e9t\u00e9")


def test_load_dataset_names_the_label_that_a_test_label_may_be(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", cells("neg", "pos"))
    write(tmp_path / "test.csv", cells("NEG", "pos"))
    with pytest.raises(DataError, match=r"'NEG' does not occur in the train split.*use --label-map NEG=neg"):
        load_dataset(tmp_path)
