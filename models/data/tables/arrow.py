"""Parquet and Arrow files, with the label names that their schema declares."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparserve.models.data.tables.table import Table
from sparserve.models.errors import DataError

MAGIC = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\xff\xff\xff\xff": "Arrow stream"}


def arrow_format(beginning: bytes) -> str | None:
    """Return the name of the columnar format that a file begins with, if any."""
    return next((name for magic, name in MAGIC.items() if beginning.startswith(magic)), None)


def read_arrow(path: Path, content: bytes, form: str) -> Table:
    """Return the table in the content of a Parquet or Arrow file.

    Raises:
        DataError: the file is damaged, or has two columns of one name.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        source = pyarrow.BufferReader(content)
        if form == "Parquet":
            table = pyarrow.parquet.ParquetFile(source).read()
        else:
            table = (pyarrow.ipc.open_stream if form == "Arrow stream" else pyarrow.ipc.open_file)(source).read_all()
        if len(set(table.column_names)) != len(table.column_names):
            raise DataError(f"{path}: two columns have the same name. Columns: {', '.join(table.column_names)}.")
        columns = {name: _values(table.column(name)) for name in table.column_names}
        classes = _declared(table)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is not a readable {form} file: {error}") from error
    named = with_class_names(columns, classes, str(path))
    return Table(named, classes=classes, categories=_categories(table), format=form)


def with_class_names(
    columns: Mapping[str, list[Any]], classes: Mapping[str, tuple[str, ...]], source: str
) -> dict[str, list[Any]]:
    """Return the columns with names in place of the indices of declared classes; a negative index is a missing label.

    Raises:
        DataError: an index has no name.
    """
    return {
        name: [_class_name(value, classes[name], source) for value in values] if name in classes else values
        for name, values in columns.items()
    }


def _class_name(value: Any, names: Sequence[str], source: str) -> Any:
    if isinstance(value, list):
        return [_class_name(element, names, source) for element in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value >= len(names):
        raise DataError(f"{source}: label {value} has no name: its column declares {len(names)}. Correct the data set.")
    return names[value] if value >= 0 else None


def _values(column: Any) -> list[Any]:
    import pyarrow

    try:
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    except (pyarrow.ArrowException, ValueError, OverflowError):
        # Times finer than Python's, or out of its range.
        return list(column.cast(pyarrow.string()).to_pylist())


def _declared(table: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of ClassLabel columns, which the library `datasets` writes into the schema's metadata."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        pairs = [(name, _class_names(feature)) for name, feature in features.items() if name in table.column_names]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in pairs if names}


def _class_names(feature: Any) -> tuple[str, ...]:
    # A list of classes is a feature within a Sequence, a List or a list.
    if isinstance(feature, list) and feature:
        return _class_names(feature[0])
    names = feature.get("names")
    if isinstance(names, list):
        return tuple(map(str, names))
    return _class_names(feature["feature"]) if isinstance(feature.get("feature"), dict | list) else ()


def _categories(table: Any) -> dict[str, tuple[str, ...]]:
    """Return the values of dictionary columns, which pandas calls categories."""
    import pyarrow

    categories = {}
    for field in table.schema:
        if pyarrow.types.is_dictionary(field.type):
            chunks = table.column(field.name).chunks
            values = {str(value) for chunk in chunks for value in chunk.dictionary.to_pylist() if value is not None}
            categories[field.name] = tuple(sorted(values))
    return categories
