"""The meaning of cells in label columns."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from sparserve.models.data.columns import Columns
from sparserve.models.data.labels.label_sets import LabelSets, label_names, label_sets
from sparserve.models.data.tables.table import Table
from sparserve.models.errors import DataError

FLAGS = Columns(("text",), None, ("toxic", "rude"))
ONE = Columns(("text",), None, ("label",))


def sets(
    columns: Columns, *, separator: str | None = None, multi_label: bool | None = None, **cells: list[Any]
) -> LabelSets:
    return label_sets(Table(cells), columns, "a.csv (test)", separator=separator, multi_label=multi_label)


def names(rows: Sequence[tuple[str, ...] | None], **options: Any) -> tuple[str, ...]:
    return label_names([row for row in rows if row], "a.csv", **options)


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), (1, 0), (" 1.0 ", "0.0"), (1.0, 0.0), (True, False), ("True", "FALSE")]
)
def test_label_sets_reads_every_spelling_of_0_and_1(yes: Any, no: Any) -> None:
    read = sets(FLAGS, toxic=[yes, no, yes], rude=[no, no, yes])
    assert read.multi_label
    assert read.rows == [("toxic",), (), ("toxic", "rude")]


@pytest.mark.parametrize("value", ["maybe", "", None, math.nan])
def test_label_sets_refuses_a_cell_that_is_neither_0_nor_1(value: Any) -> None:
    with pytest.raises(DataError, match=r"a\.csv \(test\): column 'rude' holds .* in row 2\. .* write 0 or 1") as error:
        sets(FLAGS, toxic=["1", "0"], rude=["1", value])
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [-1, "2"])
def test_label_sets_refuses_a_number_that_is_no_probability(value: Any) -> None:
    with pytest.raises(
        DataError, match=r"a\.csv \(test\): the probability of 'rude' in row 2 is .* Write probabilities"
    ):
        sets(FLAGS, toxic=["1", "0"], rude=["1", value])


@pytest.mark.parametrize("word", ["nan", "Infinity", "-inf", "1e999"])
def test_label_names_keeps_words_that_python_reads_as_numbers(word: str) -> None:
    assert names(sets(ONE, label=[word, "pizza"] * 2).rows) == tuple(sorted([word, "pizza"]))
    assert set(names(sets(ONE, label=[word, "10", "9"] * 2).rows)) == {word, "10", "9"}


def test_label_sets_refuses_infinity_and_drops_nan() -> None:
    assert sets(ONE, label=[1.0, math.nan]).rows == [("1",), None]
    with pytest.raises(DataError, match="the number inf cannot be a label"):
        sets(ONE, label=[1.0, math.inf])


def test_label_names_sorts_numbers_numerically() -> None:
    assert names(sets(ONE, label=["10", "9", "-1"] * 2).rows) == ("-1", "9", "10")


LISTS = ["['neg', 'odd']", "['pos']", "['neg']", "['pos', 'odd']"] * 2


@pytest.mark.parametrize(
    "options", [{}, {"multi_label": True}, {"separator": ","}, {"multi_label": True, "separator": ";"}]
)
def test_label_sets_reads_lists_in_text(options: dict[str, Any]) -> None:
    read = sets(ONE, label=LISTS, **options)
    assert read.multi_label
    assert read.rows[:3] == [("neg", "odd"), ("pos",), ("neg",)]


def test_label_sets_obeys_no_multi_label() -> None:
    read = sets(ONE, label=[["pos"], "['neg']", [], None], multi_label=False)
    assert (read.rows, read.multi_label) == ([("pos",), ("neg",), None, None], False)
    one_hot = sets(FLAGS, toxic=[1, 0, 0], rude=[0, 1, 0], multi_label=False)
    assert (one_hot.rows, one_hot.multi_label) == ([("toxic",), ("rude",), None], False)
    with pytest.raises(DataError, match=r"row 2 has 2 labels \(a, b\), which --no-multi-label excludes"):
        sets(ONE, label=[["a"], ["a", "b"]], multi_label=False)
    with pytest.raises(DataError, match=r"--label-separator splits.* which --no-multi-label excludes"):
        sets(ONE, label=["a|b"], multi_label=False, separator="|")


def test_label_sets_notes_lists_of_one_label() -> None:
    assert "use --no-multi-label" in sets(ONE, label=[["a"], ["b"]]).notes[0]
    assert sets(ONE, label=[["a"], ["a", "b"]]).notes == ()


def test_label_sets_refuses_vectors_of_0_and_1() -> None:
    with pytest.raises(DataError, match=r"vectors of 0 and 1, such as \[0, 0, 1\].*have no names"):
        sets(ONE, label=[[0, 0, 1], [1, 0, 1]])


def test_label_sets_keeps_declared_labels() -> None:
    table = Table({"label": ["good", None]}, classes={"label": ("bad", "good")})
    read = label_sets(table, ONE, "a.parquet", separator=None, multi_label=None)
    assert (read.rows, read.declared) == ([("good",), None], ("bad", "good"))
    assert sets(FLAGS, toxic=[1, 0], rude=[0, 0]).declared == ("toxic", "rude")
    assert names([("b",), ("c",)] * 2, declared=("a", "b")) == ("a", "b", "c")


def test_label_sets_notes_categories_without_rows() -> None:
    table = Table({"label": ["a", "b"]}, categories={"label": ("a", "b", "c")})
    read = label_sets(table, ONE, "a.parquet", separator=None, multi_label=None)
    assert read.declared == () and "no row has these values of the label column's type" in read.notes[0]


@pytest.mark.parametrize("separator", ["/", " "])
def test_label_sets_offers_a_separator_that_it_does_not_detect(separator: str) -> None:
    cells = [f"sun{separator}sea", "sun", f"sea{separator}sand", "sand"]
    assert f"use --label-separator {separator!r}" in sets(ONE, label=cells).notes[0]
    assert sets(ONE, label=["world news", "sports news", "weather"]).notes == ()


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_label_sets_offers_and_detects_a_separator(separator: str) -> None:
    cells = [f"sun{separator}sea", "sun", f"sea{separator} sand", "sand"]
    plain = sets(ONE, label=cells)
    assert not plain.multi_label and f"use --label-separator {separator!r}" in plain.notes[0]
    assert sets(ONE, label=cells, multi_label=True).rows[2] == ("sea", "sand")


def test_label_sets_keeps_commas_of_names() -> None:
    cells = ["Politics, World", "Sports, Local", "Weather"]
    assert sets(ONE, label=cells).notes == ()
    assert sets(ONE, label=cells, multi_label=True).rows[0] == ("Politics, World",)


def test_label_names_bounds_detected_columns_alone() -> None:
    many = [(f"class {i // 2}",) for i in range(2 * 250)]
    with pytest.raises(DataError, match=r"250 different labels.*name their column with --label-column"):
        names(many)
    assert len(names(many, named=True)) == 250


def test_label_sets_reads_words_in_named_columns() -> None:
    assert sets(FLAGS, toxic=["yes", "No", "t"], rude=["n", "Y", "f"]).rows == [("toxic",), ("rude",), ("toxic",)]


def test_label_sets_notes_columns_with_one_label_a_row() -> None:
    read = sets(FLAGS, toxic=[1, 0], rude=[0, 1])
    assert read.notes == ("every row has exactly one label; use --no-multi-label if that is always so",)
    assert sets(FLAGS, multi_label=False, toxic=[1, 0], rude=[0, 1]).rows == [("toxic",), ("rude",)]


@pytest.mark.parametrize("cell", ["[0. 1. 0.]", "tensor([0., 1., 0.])", "array([0, 1, 0])"])
def test_label_sets_refuses_vectors_in_text(cell: str) -> None:
    with pytest.raises(DataError, match="vectors of 0 and 1"):
        sets(ONE, label=[cell] * 3)


def test_label_sets_names_decimals_as_other_numbers() -> None:
    assert sets(ONE, label=[Decimal("1.00"), Decimal("2.50")]).rows == [("1",), ("2.50",)]


def test_label_sets_tells_labels_on_lines_of_a_cell() -> None:
    assert "separate them by ';'" in sets(ONE, label=["a\nb", "a", "b", "b\na"]).notes[0]
