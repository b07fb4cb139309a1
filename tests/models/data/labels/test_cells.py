"""Cells of text that hold lists of labels, as programs write them."""

from typing import Any

import pytest

from sparserve.models.data.labels.cells import is_vector, read_lists
from sparserve.models.errors import DataError


@pytest.mark.parametrize(
    "cell",
    [
        '["a b", "c"]', "['a b', 'c']", "('a b', 'c')", "{'a b', 'c'}", "['a b' 'c']", "['a b'\n 'c']", '{"a b",c}',
        "array(['a b', 'c'], dtype=object)", "array(['a b', 'c'], dtype='<U3')", "frozenset({'a b', 'c'})",
        "Index(['a b', 'c'], dtype='object')", "[ 'a b' , \"c\" ]", '{"choices": ["a b", "c"]}', "[u'a b', u'c']",
        '"[\\"a b\\", \\"c\\"]"', ("a b", "c"), ["a b", "c"], {"choices": ["a b", "c"]},
    ],
)  # fmt: skip
def test_read_lists_reads_every_spelling(cell: Any) -> None:
    lists = read_lists([cell, "['x']"], "a.csv")
    assert lists is not None
    assert sorted(lists[0]) == ["a b", "c"] and lists[1] == ["x"]


@pytest.mark.parametrize("cell", ["[]", "()", "{}", "set()", "['']"])
def test_read_lists_reads_empty_lists(cell: str) -> None:
    assert read_lists([cell, "['x']"], "a.csv") in ([[], ["x"]], [[""], ["x"]])


def test_read_lists_reads_escapes_and_numbers() -> None:
    assert read_lists([r"['it\'s', 'b\\c']", '["\\u00e9"]', "[1, 2]", "[1 2]"], "a.csv") == [
        ["it's", "b\\c"],
        ["é"],
        [1, 2],
        ["1", "2"],
    ]


def test_read_lists_keeps_names_beside_lists() -> None:
    assert read_lists(["['a']", "b", "[c]", None, ""], "a.csv") == [["a"], "b", "[c]", None, ""]


def test_read_lists_reads_brackets_without_quotes_if_all_cells_have_them() -> None:
    assert read_lists(["[a, b]", "{c}", "", None], "a.csv") == [["a", "b"], ["c"], "", None]
    assert read_lists(["[a, b]", "c"], "a.csv") is None
    assert read_lists(["[a, b]", "a", "b"], "a.csv") == [["a", "b"], "a", "b"]


@pytest.mark.parametrize("cells", [["a", "b"], ["[deleted]", "kept"], ["(1)", "(other)", "x"], [1, None, 2.5], []])
def test_read_lists_leaves_names_alone(cells: list[Any]) -> None:
    assert read_lists(cells, "a.csv") is None


@pytest.mark.parametrize("cell", ["{'toxic': 1, 'mild': 0}", '{"toxic": 1}', "{ 'a' : True}"])
def test_read_lists_refuses_objects(cell: str) -> None:
    with pytest.raises(DataError, match=r"a label is an object.*one column of 0 and 1"):
        read_lists([cell], "a.csv")


def test_is_vector_tells_indicators_from_names() -> None:
    assert is_vector([[0, 0, 1], [1, 0, 1]]) and is_vector([[0.0, 0.0], [1.0, 0.0]])
    assert not is_vector([["0", "1"], ["1", "0"]]) and not is_vector([["a", "a"]]) and not is_vector([[1], [0, 0]])
