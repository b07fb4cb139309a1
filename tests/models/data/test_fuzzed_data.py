"""Arbitrary bytes, JSON values, label cells and options through the loader: a data set or an error for the user."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.options import DataOptions
from sparserve.models.errors import InputError

pytestmark = pytest.mark.thorough
fuzzed = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

NAMES = st.sampled_from(["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "a.csv.gz", "noname"])
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "latin-1", "cp1252", "iso2022_jp", "utf-7")
STRUCTURE = st.sampled_from([*",;\t|\"'\\\n\r\x00#[]{}()^: \ufeff\u2028\x1a", "\r\n", '""', "label", "text", "0", "1"])
MARKED = st.lists(STRUCTURE | st.text(max_size=6), max_size=12).map("".join)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | MARKED | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
LISTS = st.lists(st.sampled_from(["a", "b", "c d", "it's", 'q"q', "é", "0", "1", ""]), max_size=3)
CELLS = (
    LISTS.map(str)
    | LISTS.map(json.dumps)
    | LISTS.map(lambda cell: f"array({cell!r}, dtype=object)")
    | LISTS.map(lambda cell: "{" + ",".join(cell) + "}")
    | LISTS.map(lambda cell: "[" + " ".join(map(repr, cell)) + "]")
    | LISTS.map("|".join)
    | MARKED
    | VALUES
)
CHARACTERS = st.none() | st.sampled_from([*",;\t|:\"'\\~ ", "tab", "none", "", "::", "\n", "é"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "text_column": st.sampled_from([None, "text", "column 1", ["text", "label"], ["text", "text"], [], ""]),
        "text_pair_column": st.sampled_from([None, "", "label", "column 2"]),
        "label_column": st.sampled_from([None, "label", "column 2", ["label", "text"], []]),
        "label_separator": st.sampled_from([None, "|", ",", " ", "ab"]),
        "multi_label": st.sampled_from([None, True, False]),
        "header": st.sampled_from([None, True, False]),
        "delimiter": CHARACTERS,
        "quote": CHARACTERS,
        "escape": CHARACTERS,
        "encoding": st.sampled_from([None, *ENCODINGS, "rot13", "idna", "undefined", "no such", ""]),
    },
)


def is_sound(path: Path, content: bytes, options: dict[str, Any]) -> Dataset | None:
    """Load a file; any error but those for the user fails the test."""
    path.write_bytes(content)
    chosen = cast(DataOptions, options)
    try:
        dataset = load_dataset(path, **chosen)
    except InputError as error:
        assert str(error)
        return None
    assert len(dataset.label_names) == len(set(dataset.label_names)) >= 2
    assert all(name.strip() == name and "\x00" not in name for name in dataset.label_names)
    assert dataset.digest and dataset.summary.lines()
    return dataset


@fuzzed
@given(name=NAMES, content=st.binary(max_size=300) | st.binary(max_size=60).map(gzip.compress), options=OPTIONS)
def test_load_dataset_survives_bytes(tmp_path: Path, name: str, content: bytes, options: dict[str, Any]) -> None:
    is_sound(tmp_path / name, content, options)


@fuzzed
@given(
    name=NAMES,
    head=MARKED,
    rows=st.lists(st.lists(MARKED, min_size=1, max_size=3), max_size=6),
    delimiter=st.sampled_from([",", ";", "\t", "|", ":"]),
    encoding=st.sampled_from(ENCODINGS),
    options=OPTIONS,
)
def test_load_dataset_survives_csv(
    tmp_path: Path,
    name: str,
    head: str,
    rows: Sequence[Sequence[str]],
    delimiter: str,
    encoding: str,
    options: dict[str, Any],
) -> None:
    lines = [head, delimiter.join(["text", "label"]), *(f"text {i}{delimiter}{'yn'[i % 2]}" for i in range(30))]
    lines[20:20] = [delimiter.join(row) for row in rows]
    is_sound(tmp_path / name, "\n".join(lines).encode(encoding, "replace"), options)


@fuzzed
@given(cells=st.lists(CELLS, min_size=1, max_size=12), options=OPTIONS)
def test_load_dataset_survives_label_cells(tmp_path: Path, cells: Sequence[Any], options: dict[str, Any]) -> None:
    labels = [*cells, *cells, *["a", "b"] * 10]
    lines = [json.dumps({"text": f"text {i} is here", "label": label}) for i, label in enumerate(labels)]
    is_sound(tmp_path / "a.jsonl", "\n".join(lines).encode(), options)


@fuzzed
@given(value=VALUES, rows=st.lists(VALUES, max_size=5), options=OPTIONS)
def test_load_dataset_survives_json(tmp_path: Path, value: Any, rows: Sequence[Any], options: dict[str, Any]) -> None:
    usual = [{"text": f"text {i}", "label": i % 2, "other": value} for i in range(30)]
    for whole in (value, [*usual, *rows], {"data": usual, "more": rows}, {"text": rows, "label": value}):
        is_sound(tmp_path / "a.json", json.dumps(whole).encode(), options)


@fuzzed
@given(
    names=st.lists(st.text(max_size=4), min_size=2, max_size=4),
    indices=st.lists(st.integers(-2, 5), min_size=1, max_size=5),
    damage=st.none() | st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)),
    feature=VALUES,
)
def test_load_dataset_survives_parquet(
    tmp_path: Path, names: list[str], indices: list[int], damage: tuple[int, bytes] | None, feature: Any
) -> None:
    labels = indices * 30
    table = pyarrow.table({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    for declared in ({"names": names}, feature):
        info = json.dumps({"info": {"features": {"label": declared}}})
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": info}), path)
        content = path.read_bytes()
        if damage is not None:
            at = damage[0] % len(content)
            content = content[:at] + damage[1] + content[at + len(damage[1]) :]
        is_sound(path, content, {})
