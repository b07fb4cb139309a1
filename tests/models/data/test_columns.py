"""Detection of the columns of well-known benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pytest

from sparserve.models.data.columns import Columns, choose_columns
from sparserve.models.data.options import DataOptions
from sparserve.models.data.tables.table import Table
from sparserve.models.errors import DataError


def choose(
    names: Sequence[str], label: Mapping[str, list[Any]] | None = None, **options: Unpack[DataOptions]
) -> Columns:
    cells = {name: [f"{name} number {i} of many" for i in range(30)] for name in names}
    return choose_columns(Table({**cells, **(label or {"label": ["yes", "no"] * 15})}), "a.jsonl", options)


@pytest.mark.parametrize(
    ("names", "text", "pair"),
    [
        (("question", "sentence"), "question", "sentence"),  # QNLI
        (("sentence", "question"), "question", "sentence"),
        (("Sentence", "Question"), "Question", "Sentence"),
        (("question1", "question2"), "question1", "question2"),  # QQP
        (("premise", "hypothesis"), "premise", "hypothesis"),  # MNLI
        (("hypothesis", "premise"), "premise", "hypothesis"),
        (("sentence1", "sentence2"), "sentence1", "sentence2"),  # MRPC, RTE
        (("question", "passage"), "question", "passage"),  # BoolQ
        (("sentence",), "sentence", None),  # SST-2, CoLA
        (("question",), "question", None),
    ],
)
def test_choose_columns_detects_texts_of_benchmarks(names: Sequence[str], text: str, pair: str | None) -> None:
    columns = choose(names)
    assert (columns.text, columns.text_pair) == ((text,), pair)


def test_choose_columns_detects_the_other_text_beside_a_named_one() -> None:
    assert choose(("question", "sentence"), text_column="question").text_pair == "sentence"
    assert choose(("question", "sentence"), text_column="sentence").text_pair is None
    assert choose(("question", "sentence"), text_pair_column="question").text == ("sentence",)


@pytest.mark.parametrize("cells", [["0", "1"], ["0.0", "1.0"], [0.0, 1.0], [True, False], ["true", "false"]])
def test_choose_columns_detects_label_columns_of_0_and_1(cells: list[Any]) -> None:
    columns = choose(("text",), {"toxic": cells * 15, "rude": cells[::-1] * 15})
    assert columns.labels == ("toxic", "rude")


def texts(*names: str) -> dict[str, list[Any]]:
    return {name: [f"{name} number {i} of very many words" for i in range(30)] for name in names}


def test_choose_columns_offers_to_join_texts() -> None:
    columns = choose((), {**texts("Title", "Description"), "label": ["yes", "no"] * 15})
    assert columns.text == ("Title",)
    assert "--text-column 'Title' --text-column 'Description'" in columns.notes[-1]
    joined = choose((), {**texts("Title", "Body"), "label": ["a", "b"] * 15}, text_column=["Title", "Body"])
    assert (joined.text, joined.text_pair) == (("Title", "Body"), None)
    assert "joined by a space: Title + Body" in joined.notes[-1]


def test_choose_columns_ignores_ids_and_dates() -> None:
    cells = {"id": [f"r{i}" for i in range(30)], "at": [f"2026-01-{i + 1:02} 10:00:00" for i in range(30)]}
    columns = choose((), {**texts("text"), **cells, "label": ["yes", "no"] * 15})
    assert not [note for note in columns.notes if "not used" in note]


def test_choose_columns_takes_an_empty_pair_as_none() -> None:
    assert choose(("question", "sentence"), text_pair_column="").text_pair is None


def test_choose_columns_takes_several_named_labels() -> None:
    flags: dict[str, list[Any]] = {name: [0, 1] * 15 for name in ("toxic", "rude", "other")}
    columns = choose((), {**texts("text"), **flags}, label_column=["toxic", "rude"])
    assert columns.labels == ("toxic", "rude")


def test_choose_columns_names_the_delimiter_of_a_single_column() -> None:
    table = Table({"a": ["x:y"] * 30}, format="CSV, delimiter ',', quote \"")
    with pytest.raises(DataError, match=r"read with delimiter ','.*use --delimiter"):
        choose_columns(table, "a.csv", {})


def test_choose_columns_tells_names_beside_numbers() -> None:
    table = Table({**texts("text"), "label": [0, 1] * 15, "label_text": ["neg", "pos"] * 15, "kind": ["x", "x"] * 15})
    columns = choose_columns(table, "a.csv", {})
    assert columns.labels == ("label",)
    assert any("use --label-column 'label_text' for names" in note for note in columns.notes)


def test_choose_columns_takes_columns_with_one_label_a_row_as_single_labels() -> None:
    table = Table({**texts("text"), "neg": [0, 1] * 15, "pos": [1, 0] * 15})
    assert choose_columns(table, "a.csv", {"multi_label": False}).labels == ("neg", "pos")
