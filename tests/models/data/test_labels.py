"""The meaning of cells in label columns."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from sparserve.models.data.columns import Columns
from sparserve.models.data.labels import LabelSets, label_names, label_sets
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


@pytest.mark.parametrize("value", ["yes", "", None, -1, "2", 0.5, math.nan])
def test_label_sets_refuses_a_cell_that_is_neither_0_nor_1(value: Any) -> None:
    with pytest.raises(DataError, match=r"a\.csv \(test\): column 'rude' holds .* in row 2\. .* write 0 or 1") as error:
        sets(FLAGS, toxic=["1", "0"], rude=["1", value])
    assert repr(value) in str(error.value)


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
