"""Data sets of the Hugging Face Hub."""

from typing import Any

from sparserve.models.data.tables.arrow import with_class_names
from sparserve.models.data.tables.table import SPLIT_NAMES, Table
from sparserve.models.errors import DataError, EnvironmentFault


def read_hub_dataset(name: str) -> dict[str, Table]:
    """Return the table of every split of a data set that the library `datasets` downloads.

    Raises:
        DataError: there is no such data set, or it has no train split.
        EnvironmentFault: the library is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{name!r} is not a local file, so it must be a Hub data set id, and the package `datasets` is not "
            "installed. Install sparserve[hub], or give a file."
        ) from error
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, no access, a data set that is a script
        raise DataError(
            f"The Hub data set {name!r} cannot be loaded: {error}. Check its id, or give a file instead."
        ) from error
    tables: dict[str, Table] = {}
    for split, stems in SPLIT_NAMES.items():
        for stem in stems:
            if stem in splits and split not in tables:
                tables[split] = _table(splits[stem], name)
    if "train" not in tables:
        raise DataError(f"The Hub data set {name!r} has no train split. Splits: {', '.join(splits)}.")
    return tables


def _table(rows: Any, source: str) -> Table:
    classes = {}
    for name, feature in rows.features.items():
        # A list of classes is a List or Sequence with the class feature; older data sets use a Python list.
        element = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        if names := getattr(element, "names", None):
            classes[name] = tuple(names)
    columns = {name: list(rows[name]) for name in rows.features}
    return Table(with_class_names(columns, classes, source), classes=classes, format="Hub data set")
