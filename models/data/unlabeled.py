"""Rows without labels: more texts of the task, whose only training target is the teacher's answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from sparserve.models.data.columns import TextColumns, choose_text_columns, read_options
from sparserve.models.data.dataset import UNLABELED, Dataset, Split
from sparserve.models.data.options import DataOptions
from sparserve.models.data.sources.source import read_split
from sparserve.models.data.tables.table import Table
from sparserve.models.data.texts import row_texts
from sparserve.models.errors import DataError


@dataclass(frozen=True)
class UnlabeledRows:
    """Usable rows of a file of texts, with `UNLABELED` in place of labels, and a summary for the user."""

    source: str
    split: Split
    dropped: dict[str, int]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the summary as lines for a terminal."""
        lines = [f"Unlabelled rows {self.source}: {len(self.split):,} rows, whose target is the teacher's answer"]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  dropped: {count:,} rows ({reason})" for reason, count in self.dropped.items()]
        return lines


def load_unlabeled(path: Path, dataset: Dataset, **options: Unpack[DataOptions]) -> UnlabeledRows:
    """Read a file, folder or pattern of texts for the task of `dataset`, with the readers of the labelled files.

    The text columns are those of the data if the file has them, else detected. Labels in the file are not read. Rows
    with a text of the validation or test split are dropped, since a student must not learn from what judges it; so are
    texts that the training split or an earlier row has.

    Raises:
        DataError: the file cannot be read, has no text column, or no row is left.
    """
    table = read_split(path, read_options(options, lines=True))
    columns = _columns(table, path.name, dataset, options)
    texts = row_texts(table, columns.text, path.name)
    pairs = row_texts(table, [columns.text_pair], path.name) if columns.text_pair is not None else None
    known = {key: reason for reason, keys in _known(dataset) for key in keys}
    dropped: dict[str, int] = {}
    rows: list[tuple[str, str | None]] = []
    for text, pair in zip(texts, pairs or [None] * len(texts), strict=True):
        if not text or (pairs is not None and not pair):
            reason = "empty text"
        else:
            key = (text.strip().casefold(), (pair or "").strip().casefold())
            reason = known.get(key, "")
            known.setdefault(key, "text of an earlier row")
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            rows.append((text or "", pair))
    if not rows:
        reasons = ", ".join(f"{count:,} with {reason}" for reason, count in dropped.items())
        raise DataError(f"{path.name} has no usable unlabelled row ({reasons}). Give a file of other texts.")
    label = [UNLABELED] * len(dataset.label_names) if dataset.multi_label else UNLABELED
    split = Split(
        [text for text, _ in rows],
        [pair or "" for _, pair in rows] if pairs is not None else None,
        [label] * len(rows),
    )
    return UnlabeledRows(path.name, split, dropped, (*table.notes, *columns.notes))


def _columns(table: Table, source: str, dataset: Dataset, options: DataOptions) -> TextColumns:
    """Return the text columns: those of the labelled data as far as the table has them, else detected."""
    chosen = dataset.summary.columns
    text, pair = options.get("text_column") or chosen.get("text"), chosen.get("text_pair")
    names = [text] if isinstance(text, str) else list(text or ())
    columns = choose_text_columns(
        table,
        source,
        DataOptions(
            text_column=names if names and set(names) <= set(table.columns) else None,
            text_pair_column=(pair if pair in table.columns else None) if dataset.pairs else "",
        ),
    )
    if dataset.pairs and columns.text_pair is None:
        raise DataError(
            f"{source} has no second text, but the data has pairs of texts. Columns: {', '.join(table.columns)}. "
            f"Name the column of the second text {pair!r}, as in the data."
        )
    return columns


def _known(dataset: Dataset) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the texts of the labelled data by the reason for which they are dropped; the last reason counts."""
    return [
        ("text of the training split", dataset.train.duplicate_keys()),
        ("text of the validation split", dataset.validation.duplicate_keys()),
        ("text of the test split", dataset.test.duplicate_keys()),
    ]
