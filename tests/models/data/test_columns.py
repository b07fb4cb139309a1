"""`models.columns`: the columns of well-known benchmarks are found without options."""

import pytest

from sparserve.models.data.columns import choose_columns
from sparserve.models.data.tables import Table


def choose(names, label=None, **options):
    cells = {name: [f"{name} number {i} of many" for i in range(30)] for name in names}
    every = {"text": None, "text_pair": None, "label": None, "multi_label": None, **options}
    return choose_columns(Table({**cells, **(label or {"label": ["yes", "no"] * 15})}), "a.jsonl", **every)


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
def test_texts_and_pairs_of_benchmarks(names, text, pair):
    columns = choose(names)
    assert (columns.text, columns.text_pair) == (text, pair)


def test_a_named_column_decides_what_the_other_is():
    assert choose(("question", "sentence"), text="question").text_pair == "sentence"
    assert choose(("question", "sentence"), text="sentence").text_pair is None
    assert choose(("question", "sentence"), text_pair="question").text == "sentence"


@pytest.mark.parametrize("cells", [["0", "1"], ["0.0", "1.0"], [0.0, 1.0], [True, False], ["true", "false"]])
def test_columns_of_0_and_1_are_labels_in_every_spelling(cells):
    columns = choose(("text",), {"toxic": cells * 15, "rude": cells[::-1] * 15})
    assert columns.labels == ("toxic", "rude")
