"""Files of texts: the page reads them as the job does."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.bundle.manifest import ProblemType
from sparserve.models.data.columns import PAIRS, choose_columns
from sparserve.models.data.tables import table as names
from sparserve.models.data.tables.reading import read_table
from tests.browser.conftest import Evaluate, module

pytestmark = pytest.mark.browser
FILES = {
    "commas.csv": 'text,label\n"a, ""good"" film",positive\nbad,negative\n\n',
    "semicolons.csv": "text;label\na, b, c;1\nd;0\n",
    "excel.csv": "sep=;\ntext;label\ngood, fun;1\nbad;0\n",
    "quotes.tsv": 'sentence\tlabel\n"so called" fun\t1\nan 18" film\t0\n',
    "lines.csv": 'text,label\r\n"two\r\nlines",1\r\nbad,0\r\n',
    "nameless.tsv": "good film\t1\nbad film\t0\ngood fun\t1\n",
    "pairs.csv": "premise,hypothesis,gold_label\na man sleeps,he rests,yes\na dog runs,it rests,no\n",
    "question.csv": "question,sentence,label\nwho was good?,the film was,1\nwho was bad?,nobody was,0\n",
    "other.csv": "id,Review Text,stars\n1,a good film it was,5\n2,a bad film it was,1\n",
    "rows.jsonl": '{"text": "good\\u2028film", "label": 1}\n\n{"text": "bad", "label": 0}\n',
    "array.json": '[{"text": "good", "label": "yes"},\n {"text": "bad", "label": "no"}]',
    "columns.json": '{"text": ["good", "bad"], "label": ["yes", "no"]}',
    "packed.csv.gz": "text,label\ngood,1\nbad,0\n",
}
READ = """async ([name, bytes, module]) => {
  const { readFile } = await import(module);
  return readFile(new File([new Uint8Array(bytes)], name)).catch((error) => ({ fault: error.message }));
}"""
CHOOSE = "async ([table, module]) => (await import(module)).recognise(table.names, table.rows, false)"


def read(evaluate: Evaluate, name: str, content: bytes) -> dict[str, Any]:
    return evaluate(READ, [name, list(content), module("files/table_reader")])


@pytest.mark.parametrize("name", FILES)
def test_file_is_read_as_by_the_job(evaluate: Evaluate, tmp_path: Path, name: str) -> None:
    content = FILES[name].encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    expected = read_table(path)
    table = read(evaluate, name, path.read_bytes())
    assert table["names"] == list(expected.columns) and table["named"] == expected.named
    cells = [[str(value) for value in row] for row in zip(*expected.columns.values(), strict=True)]
    assert table["rows"] == cells
    chosen = choose_columns(expected, name, {})
    places = evaluate(CHOOSE, [table, module("files/columns")])
    roles = {role: table["names"][place] for role, place in places.items() if place >= 0}
    if expected.named:
        expected_roles = {"text": chosen.text[0], "pair": chosen.text_pair, "label": chosen.labels[0]}
        assert roles == {role: column for role, column in expected_roles.items() if column is not None}


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("texts.csv", b"text,label\ngood,1\nbad\nfun,0\n", "Line 3 has 1 fields, but most rows have 2"),
        ("texts.csv", b'text,label\n"good,1\n', "begins on line 2 does not end"),
        ("texts.jsonl", b'{"text": "good"}\n{"text": \n', "Line 2 is not valid JSON"),
        ("texts.json", b"[1, 2]", "Row 1 is not a JSON object"),
        ("texts.parquet", b"PAR1....", "a Parquet file"),
        ("texts.csv", b"", "holds no rows"),
        ("texts.csv", b"a\0b", "not a text file"),
    ],
)
def test_unreadable_file_names_the_place(evaluate: Evaluate, name: str, content: bytes, fault: str) -> None:
    assert fault in read(evaluate, name, content)["fault"]


def test_other_encodings_are_read(evaluate: Evaluate) -> None:
    text = "text,label\nGröße,1\nklein,0\n"
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        assert read(evaluate, "texts.csv", text.encode(encoding))["rows"][0] == ["Größe", "1"], encoding


def test_names_of_columns_are_those_of_the_job(evaluate: Evaluate) -> None:
    known = evaluate("async (path) => ({ ...(await import(path)), KNOWN_NAMES: null })", module("files/columns"))
    assert tuple(known["TEXT_NAMES"]) == names.TEXT_NAMES
    assert tuple(known["PAIR_NAMES"]) == names.PAIR_NAMES
    assert tuple(known["LABEL_NAMES"]) == names.LABEL_NAMES
    assert tuple(map(tuple, known["PAIRS"])) == PAIRS


@pytest.mark.parametrize(
    ("cells", "labels", "problem_type", "expected"),
    [
        (
            ["Negative", " positive", ""],
            ["negative", "positive"],
            "single_label_classification",
            ["negative", "positive", None],
        ),
        (["0", "1"], ["negative", "positive"], "single_label_classification", ["negative", "positive"]),
        (["0", "neutral"], ["negative", "positive"], "single_label_classification", [None, None]),
        (["neutral", "positive"], ["negative", "positive"], "single_label_classification", ["neutral", "positive"]),
        (['["b", "a"]', "b; c", ""], ["a", "b", "c"], "multi_label_classification", ["a, b", "b, c", ""]),
        (["a; d", "b"], ["a", "b"], "multi_label_classification", ["a, d", "b"]),
        (["0", "1; 2"], ["a", "b"], "multi_label_classification", [None, None]),
        (["x, y", "b|X, Y", "b"], ["b", "x, y"], "multi_label_classification", ["x, y", "b, x, y", "b"]),
        (
            ["['x, y', \"it's\"]", "b, it's"],
            ["b", "it's", "x, y"],
            "multi_label_classification",
            ["it's, x, y", "b, it's"],
        ),
        (["1.5", "x", ""], ["score"], "regression", [1.5, None, None]),
    ],
)
def test_true_labels_are_in_the_names_of_the_model(
    evaluate: Evaluate,
    cells: list[str],
    labels: list[str],
    problem_type: ProblemType,
    expected: list[object],
) -> None:
    script = """async ([path, cells, facts]) => {
      const reader = (await import(path)).truthReader(cells, facts);
      return cells.map((cell) => reader.of(cell));
    }"""
    several = problem_type == "multi_label_classification"
    facts = {"labels": labels, "numbers": problem_type == "regression", "severalLabels": several}
    assert evaluate(script, [module("files/true_labels"), cells, facts]) == expected
