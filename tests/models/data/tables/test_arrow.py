"""Parquet and Arrow files, with declared label names."""

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sparserve.models.data.tables.reading import read_table
from sparserve.models.errors import DataError
from tests.support.models.labelled import write

NAMES = ["bad", "fair", "good"]


def with_features(columns: dict[str, Any], **features: Any) -> pyarrow.Table:
    """Return a table with metadata as the library `datasets` writes it."""
    info = json.dumps({"info": {"features": features}})
    return pyarrow.table(columns).replace_schema_metadata({"huggingface": info})


def parquet(path: Path, table: pyarrow.Table) -> Path:
    pyarrow.parquet.write_table(table, path)
    return path


def test_read_arrow_names_declared_classes(tmp_path: Path) -> None:
    classes = {"names": NAMES, "_type": "ClassLabel"}
    table = with_features(
        {"label": [0, 2, -1], "several": [[0, 2], [], [2]]},
        label=classes,
        several={"feature": classes, "_type": "Sequence"},
    )
    read = read_table(parquet(tmp_path / "a.parquet", table))
    assert read.columns == {"label": ["bad", "good", None], "several": [["bad", "good"], [], ["good"]]}
    assert read.classes == {"label": tuple(NAMES), "several": tuple(NAMES)}


def test_read_arrow_refuses_an_index_without_a_name(tmp_path: Path) -> None:
    table = with_features({"label": [0, 3]}, label={"names": NAMES})
    with pytest.raises(DataError, match="label 3 has no name: its column declares 3"):
        read_table(parquet(tmp_path / "a.parquet", table))


@pytest.mark.parametrize(
    "features", [{"label": 3}, {"label": {"names": 7}}, {"other": {"names": NAMES}}, {"label": []}]
)
def test_read_arrow_ignores_metadata_that_it_does_not_know(tmp_path: Path, features: dict[str, Any]) -> None:
    assert read_table(parquet(tmp_path / "a.parquet", with_features({"label": [0, 1]}, **features))).classes == {}


def test_read_arrow_tells_the_values_of_a_category(tmp_path: Path) -> None:
    labels = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 0]), pyarrow.array(["a", "b", "c"]))
    read = read_table(parquet(tmp_path / "a.parquet", pyarrow.table({"label": labels})))
    assert (read.columns["label"], read.categories) == (["a", "b", "a"], {"label": ("a", "b", "c")})


@pytest.mark.parametrize("form", ["file", "stream"])
def test_read_arrow_reads_arrow_files(tmp_path: Path, form: str) -> None:
    table = pyarrow.table({"text": ["a", "b"]})
    opened = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
    with opened(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert read_table(tmp_path / "a.arrow").columns == {"text": ["a", "b"]}


def test_read_arrow_reads_compressed_files_and_any_column(tmp_path: Path) -> None:
    times = pyarrow.array([1, 2**62], pyarrow.timestamp("ns"))
    path = parquet(tmp_path / "a.parquet", pyarrow.table({"text": ["a", "b"], "at": times, "raw": [b"a", b"\xff"]}))
    packed = read_table(write(tmp_path / "a.bin", gzip.compress(path.read_bytes())))
    assert packed.columns["text"] == ["a", "b"]
    assert all(isinstance(value, str | datetime.datetime) for value in packed.columns["at"])


def test_read_arrow_refuses_damaged_files(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pyarrow.table({"text": ["a", "b"]}))
    content = path.read_bytes()
    for damaged in (
        content[:40],
        content[:4] + b"\x00" * 60 + content[64:],
        b"ARROW1\x00\x00",
        b"\xff\xff\xff\xff\x10",
    ):
        with pytest.raises(DataError, match="not a readable"):
            read_table(write(path, damaged))


def test_read_arrow_reads_maps_as_objects(tmp_path: Path) -> None:
    cells = pyarrow.array([[("a", 0.75), ("b", 0.25)]], pyarrow.map_(pyarrow.string(), pyarrow.float64()))
    table = read_table(parquet(tmp_path / "a.parquet", pyarrow.table({"text": ["x"], "label": cells})))
    assert table.columns["label"] == [{"a": 0.75, "b": 0.25}]
