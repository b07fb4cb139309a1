"""Label columns of numbers: detected, read, and refused with the way out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparserve.models.data.loading import load_dataset
from sparserve.models.errors import DataError

WriteRows = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteRows:
    """Return a writer of a CSV file of pairs, with a value for each row."""

    def write(values: list[object], header: str = "query,document,score", queries: int = 40) -> Path:
        path = tmp_path / "rows.csv"
        rows = [f"the query {row % queries},a document {row},{value}" for row, value in enumerate(values)]
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write


def test_measurements_are_detected_and_said(write: WriteRows) -> None:
    dataset = load_dataset(write([row / 7 for row in range(120)]), text_column="query", text_pair_column="document")
    assert (dataset.problem_type, dataset.label_names, dataset.one_score) == ("regression", ("score",), True)
    assert sorted(label for split in (dataset.train, dataset.validation, dataset.test) for label in split.labels)[
        :2
    ] == [0.0, 1 / 7]
    lines = dataset.summary.lines()
    assert any("label column: 'score' (detected by its numbers" in line for line in lines)
    assert any("column 'score' holds numbers, so the model predicts one number" in line for line in lines)
    assert "  score: from 0 to 17, mean 8.5 (one number for each row)" in lines


def test_relevance_is_divided_by_the_highest_grade_and_keeps_queries_together(write: WriteRows) -> None:
    path = write([row % 4 for row in range(160)])
    columns = {"text_column": "query", "text_pair_column": "document", "label_column": "score"}
    dataset = load_dataset(path, head="relevance", **columns)
    assert (dataset.problem_type, dataset.label_names) == ("multi_label_classification", ("relevance",))
    assert {label for (label,) in dataset.train.labels} == {0, 1 / 3, 2 / 3, 1}
    assert not set(dataset.train.texts) & set(dataset.test.texts)
    assert "relevance is divided by the highest grade, 3" in dataset.summary.notes


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0, 1] * 20, {"head": "relevance", "text_pair_column": ""}, "learns from pairs, a query and a document"),
        ([0, -1] * 20, {"head": "relevance"}, "the grades are from -1 to 0"),
        ([1.5] * 40, {"head": "number"}, "every row has the number 1.5"),
        ([1.5] * 39 + ["high"], {"head": "number"}, "holds 'high' in row 40, which is not a finite number"),
        ([0, 1] * 20, {"head": "number", "multi_label": True}, "neither --multi-label nor --label-separator"),
        ([row / 7 for row in range(120)], {"head": "labels"}, "To predict numbers, use --head number"),
    ],
)
def test_numbers_are_refused_with_the_way_out(
    write: WriteRows, values: list[object], options: dict[str, object], message: str
) -> None:
    columns = {"text_column": "query", "text_pair_column": "document", "label_column": "score"}
    with pytest.raises(DataError, match=message):
        load_dataset(write(values), **{**columns, **options})


def test_numbers_with_a_large_spread_are_noted(write: WriteRows) -> None:
    dataset = load_dataset(write([1000.5 * row for row in range(120)]), text_column="query")
    assert any("standard deviation of" in note for note in dataset.summary.notes)


@pytest.mark.parametrize(("cell", "number"), [("{},5", 12.5), ("1.0{},50", 1012.5), ("-{},0", -12.0)])
def test_numbers_are_read_with_decimal_commas(write: WriteRows, cell: str, number: float) -> None:
    path = write([f'"{cell.format(row)}"' for row in range(12, 72)])
    dataset = load_dataset(path, text_column="query", label_column="score", head="number")
    assert number in {*dataset.train.labels, *dataset.validation.labels, *dataset.test.labels}


def test_numbers_with_a_comma_are_labels_beside_whole_numbers(write: WriteRows) -> None:
    path = write([f'"{row % 40},{row % 2}"' if row % 3 else row % 2 for row in range(240)])
    dataset = load_dataset(path, text_column="query", label_column="score", label_separator=",")
    assert dataset.multi_label


def test_numbers_that_stay_classes_are_noted(write: WriteRows) -> None:
    dataset = load_dataset(write([row % 4 / 2 for row in range(80)]), text_column="query", label_column="score")
    assert "the classes of 'score' are numbers such as 0.5: use --head number" in " ".join(dataset.summary.notes)
