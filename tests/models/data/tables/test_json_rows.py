"""JSON in every shape that programs write rows in."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.data.tables.reading import read_table
from sparserve.models.errors import DataError
from tests.support.models.labelled import rows, write

ROWS = rows(30)
COLUMNS: dict[str, list[Any]] = {name: [row[name] for row in ROWS] for name in ("text", "label")}
SHAPES: dict[str, str] = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "array": json.dumps(ROWS),
    "indented array": json.dumps(ROWS, indent=2),
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "columns": json.dumps(COLUMNS),
    "indented columns": json.dumps(COLUMNS, indent=1),
    "list within an object": json.dumps({"version": 1, "data": ROWS}),
    "orient split": json.dumps({"columns": ["text", "label"], "data": [[r["text"], r["label"]] for r in ROWS]}),
    "orient columns": json.dumps({name: dict(enumerate(cells)) for name, cells in COLUMNS.items()}),
    "nested": json.dumps({"nlu": {"examples": ROWS, "synonyms": []}}),
    "orient index": json.dumps(dict(enumerate(ROWS))),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "no-suffix"])
def test_read_json_reads_every_shape_whatever_the_name(tmp_path: Path, shape: str, name: str) -> None:
    assert dict(read_table(write(tmp_path / name, SHAPES[shape])).columns) == COLUMNS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "b": {"c": 2}}', "one JSON object without a table"),
        ('{"text": ["a"], "label": ["x", "y"]}', "one JSON object without a table"),
        ("3", "object 1 is not a JSON object"),
        ("[[1, 2], [3]]", "row 1 is not a JSON object"),
        ("text,label\na,b\n", "line 1 is not valid JSON"),
        ('[{"text": "a"},\n{"text": }]', "line 2 is not valid JSON"),
        ('{"n": ' + "9" * 5000 + "}", "not valid JSON"),
        ("  \n", "no rows"),
    ],
)
def test_read_json_refuses_what_is_no_table(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "a.json", content))


def test_read_table_takes_a_row_in_brackets_as_csv(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", "[deleted] text,no\n{},no\n" + '{"a"} text,yes\n' * 3))
    assert table.columns["column 2"] == ["no", "no", "yes", "yes", "yes"]


def test_read_json_reads_splits_of_an_object(tmp_path: Path) -> None:
    whole = {"train": ROWS, "val": ROWS[:3], "version": 2}
    table = read_table(write(tmp_path / "a.json", json.dumps(whole)))
    assert table.columns["split"] == ["train"] * 30 + ["validation"] * 3
    assert table.notes == ("not used: version",)
    arrays = read_table(
        write(tmp_path / "b.json", json.dumps({"train": [["a", "x"], ["b", "y"]], "test": [["c", "x"]]}))
    )
    assert (arrays.named, arrays.columns["split"]) == (False, ["train", "train", "test"])


def test_read_json_reads_rows_that_are_arrays(tmp_path: Path) -> None:
    arrays = [[row["text"], row["label"]] for row in ROWS]
    assert dict(read_table(write(tmp_path / "a.json", json.dumps([["text", "label"], *arrays]))).columns) == COLUMNS
    lines = read_table(write(tmp_path / "b.jsonl", "\n".join(map(json.dumps, arrays))))
    assert (lines.named, [*lines.columns.values()]) == (False, [*COLUMNS.values()])
