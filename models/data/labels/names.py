"""One label under several names: spellings of a number, new names from the user, and notes on names that look alike."""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tables.table import MISSING_WORDS
from sparserve.models.errors import DataError

WHOLE = re.compile(r"([+-]?\d+)\.0+")
SHOWN = 3


def merged_names(names: Collection[str], new_names: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that become another label of the data: "1.0" beside "1", and those that the user maps to one.

    Raises:
        DataError: the user renames a label that the data lacks.
    """
    _check_known(new_names, sorted(names))
    whole = {name: match[1] for name in names if (match := WHOLE.fullmatch(name))}
    merged = {name: plain for name, plain in whole.items() if plain in names}
    first: dict[str, str] = {}
    for old, new in new_names.items():
        if new in names and new not in new_names:
            merged[old] = new
        elif first.setdefault(new, old) != old:
            merged[old] = first[new]
    return merged


def with_new_labels(dataset: Dataset, new_names: Mapping[str, str]) -> Dataset:
    """Return the same data with some of its labels renamed.

    Raises:
        DataError: a label that the data lacks is renamed, or two labels would have the same name.
    """
    _check_known(new_names, dataset.label_names)
    names = tuple(new_names.get(name, name).strip() for name in dataset.label_names)
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"--label-map: the labels would be {', '.join(names)}. Give each of them another name.")
    counts = dict(zip(names, dataset.summary.labels.values(), strict=True))
    return replace(dataset, label_names=names, summary=replace(dataset.summary, labels=counts))


def notes_on_names(counts: Mapping[str, int]) -> Iterator[str]:
    """Describe labels that look like one label or like none."""
    usual: dict[str, str] = {}  # the most frequent name of those that look alike
    pairs = []
    for name in sorted(counts, key=lambda name: -counts[name]):
        if (other := usual.setdefault(_key(name), name)) != name:
            pairs.append((name, other))
    if pairs:
        shown = ", ".join(f"{name!r} and {other!r}" for name, other in pairs[:SHOWN])
        more = ", ..." if len(pairs) > SHOWN else ""
        yield (
            f"labels that differ in spelling only: {shown}{more}; if they are one, use --label-map "
            f"{_quoted(*pairs[0])} for each"
        )
    numbers = [name for name in counts if re.fullmatch(r"\d+", name)]
    for name, count in counts.items():
        negative = name == "-1" and len(numbers) == len(counts) - 1
        if negative or name.casefold() in MISSING_WORDS:
            yield f"the label {name!r} ({count:,} rows) may say that a row has no label; remove its rows if it does"


def way_out(name: str, names: Collection[str]) -> str:
    """Return what makes a name one with another that differs in case, spaces or the spelling of a number, if any."""
    key = _key(name)
    other = next((other for other in names if other != name and _key(other) == key), None)
    return f" If it is the same as {other!r}, use --label-map {_quoted(name, other)}." if other is not None else ""


def _check_known(new_names: Mapping[str, str], names: Collection[str]) -> None:
    for old in new_names:
        if old not in names:
            raise DataError(f"--label-map: the data has no label {old!r}. Its labels: {', '.join(names)}.")


def _key(name: str) -> str:
    try:
        return repr(float(name))
    except ValueError:
        return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold())


def _quoted(old: str, new: str) -> str:
    mapping = f"{old}={new}"
    return mapping if re.fullmatch(r"[\w.=-]+", mapping) else f"'{mapping}'"
