"""Exports of annotation tools."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.data.tables.reading import read_table
from sparserve.models.data.tables.table import Table
from tests.support.models.labelled import write


def read(path: Path, rows: Sequence[Any]) -> Table:
    return read_table(write(path, json.dumps(list(rows))))


def task(text: str, choices: list[str], **fields: Any) -> dict[str, Any]:
    result = {"from_name": "topic", "to_name": "text", "type": "choices", "value": {"choices": choices}}
    cancelled = {"was_cancelled": True, "result": []}
    return {"id": 1, "data": {"text": text}, "annotations": [cancelled, {"result": [result], **fields}]}


def test_read_table_reads_label_studio(tmp_path: Path) -> None:
    table = read(tmp_path / "a.json", [task("one", ["a"]), task("two", ["b"]), task("three", [], was_cancelled=True)])
    assert table.columns == {"text": ["one", "two", "three"], "topic": ["a", "b", None]}
    several = read(tmp_path / "b.json", [task("one", ["a", "b"]), task("two", ["b"])])
    assert several.columns["topic"] == [["a", "b"], ["b"]]


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ([{"accept": ["a"]}, {"accept": ["b"]}, {"accept": ["a"]}], ["a", None, None]),
        ([{"label": "spam"}] * 3, ["spam", "not spam", None]),
        ([{"label": "a"}, {"label": "b"}, {"label": "a"}], ["a", None, None]),
    ],
)
def test_read_table_obeys_the_answers_of_prodigy(
    tmp_path: Path, fields: Sequence[dict[str, Any]], labels: list[str | None]
) -> None:
    answers = ("accept", "reject", "ignore")
    rows = [{"text": f"t {i}", "answer": answer, **fields[i]} for i, answer in enumerate(answers)]
    table = read(tmp_path / "a.json", rows)
    assert table.columns == {"text": ["t 0", "t 1", "t 2"], "label": labels}
    assert "(Prodigy)" in table.notes[0]


def test_read_table_spreads_objects_that_hold_the_text(tmp_path: Path) -> None:
    rows = [{"row_idx": i, "row": {"text": f"t {i}", "label": "a"}, "scores": {"a": 0.5}} for i in range(3)]
    assert list(read(tmp_path / "a.json", rows).columns) == ["row_idx", "scores", "text", "label"]
