"""`models.labels`: what cells of label columns mean."""

import math

import pytest

from sparserve.models.data.columns import Columns
from sparserve.models.data.labels import label_names, label_sets
from sparserve.models.data.tables import Table
from sparserve.models.errors import DataError

FLAGS = Columns("text", None, ("toxic", "rude"))
ONE = Columns("text", None, ("label",))


def sets(columns, **cells):
    return label_sets(Table(cells), columns, "a.csv (test)", separator=None, multi_label=None)


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), (1, 0), (" 1.0 ", "0.0"), (1.0, 0.0), (True, False), ("True", "FALSE")]
)
def test_every_spelling_of_0_and_1_is_read(yes, no):
    found, several = sets(FLAGS, toxic=[yes, no, yes], rude=[no, no, yes])
    assert several
    assert found == [("toxic",), (), ("toxic", "rude")]


@pytest.mark.parametrize("value", ["yes", "", None, -1, "2", 0.5, math.nan])
def test_a_cell_that_is_no_0_or_1_is_named_and_not_taken_for_0(value):
    with pytest.raises(DataError, match=r"a\.csv \(test\): column 'rude' holds .* in row 2, .* write 0 or 1") as error:
        sets(FLAGS, toxic=["1", "0"], rude=["1", value])
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("word", ["nan", "Infinity", "-inf", "1e999"])
def test_words_that_python_reads_as_numbers_are_labels(word):
    found, _ = sets(ONE, label=[word, "pizza"] * 2)
    assert label_names([row for row in found if row], "a.csv", multi_label=False) == tuple(sorted([word, "pizza"]))
    with_numbers, _ = sets(ONE, label=[word, "10", "9"] * 2)
    assert set(label_names([row for row in with_numbers if row], "a.csv", multi_label=False)) == {word, "10", "9"}


def test_a_number_that_is_not_finite_is_no_label():
    assert sets(ONE, label=[1.0, math.nan])[0] == [("1",), None]
    with pytest.raises(DataError, match="the number inf is no label"):
        sets(ONE, label=[1.0, math.inf])


def test_numbers_are_in_numerical_order():
    found, _ = sets(ONE, label=["10", "9", "-1"] * 2)
    assert label_names([row for row in found if row], "a.csv", multi_label=False) == ("-1", "9", "10")
