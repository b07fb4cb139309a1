"""Labelled text in three splits, with a content digest and a summary for the user.

A single-label row carries the index of its label. A multi-label row carries 0 or 1 for every label, in the order of
`label_names`. A row of a regression carries its number. A row with the relevance of a document to a query is that of a
multi-label task with one label, of which it has a fraction.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

DataProblem = Literal["single_label_classification", "multi_label_classification", "regression"]
SPLITS = ("train", "validation", "test")
# In place of a label: the row has none. It is the index that torch's cross-entropy ignores.
UNLABELED = -100
MAX_SHOWN_LABELS = 50


@dataclass(frozen=True)
class Split:
    """Rows of text with their labels. `text_pairs` is None if the task has one text per row.

    `soft` has the probability of every label in every row, if the data says so.
    """

    texts: Sequence[str]
    text_pairs: Sequence[str] | None
    labels: Sequence[Any]
    soft: Sequence[Sequence[float]] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row as plain data."""
        pairs = self.text_pairs if self.text_pairs is not None else [None] * len(self)
        soft: Sequence[Any] = self.soft if self.soft is not None else [None] * len(self)
        for text, pair, label, probabilities in zip(self.texts, pairs, self.labels, soft, strict=True):
            more = {} if probabilities is None else {"probabilities": list(probabilities)}
            yield {"text": text, **({"text_pair": pair} if pair is not None else {}), "label": label, **more}

    def duplicate_keys(self) -> list[tuple[str, str]]:
        """Return each row's texts without case and surrounding space; rows with equal keys are duplicates."""
        pairs = self.text_pairs if self.text_pairs is not None else [""] * len(self)
        return [
            (text.strip().casefold(), pair.strip().casefold()) for text, pair in zip(self.texts, pairs, strict=True)
        ]

    def take(self, rows: Sequence[int]) -> "Split":
        """Return the split that has these rows, in this order."""
        return Split(
            [self.texts[row] for row in rows],
            [self.text_pairs[row] for row in rows] if self.text_pairs is not None else None,
            [self.labels[row] for row in rows],
            [self.soft[row] for row in rows] if self.soft is not None else None,
        )

    def followed_by(self, more: "Split") -> "Split":
        """Return the split that has the rows of this one, then those of another one, without soft labels."""
        pairs = None
        if self.text_pairs is not None and more.text_pairs is not None:
            pairs = [*self.text_pairs, *more.text_pairs]
        return Split([*self.texts, *more.texts], pairs, [*self.labels, *more.labels])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows, in order."""
        digest = hashlib.sha256()
        for row in self.rows():
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class DataSummary:
    """Counts and notes that a user reads before training starts.

    `duplicates` is the number of rows whose text occurs in an earlier row, in the order train, validation, test.
    `shared` is the number of those whose text occurs in an earlier split.
    """

    source: str
    columns: dict[str, str]
    rows: dict[str, int]
    labels: dict[str, int]
    characters: dict[str, int]
    words: dict[str, int]
    duplicates: int
    shared: int
    dropped: dict[str, int]
    notes: tuple[str, ...] = ()
    format: str = ""
    multi_label: bool = False
    values: tuple[float, float, float] | None = None
    """Lowest, highest and mean of the numbers, if a row has a number."""

    def lines(self) -> list[str]:
        """Return the summary as lines for a terminal."""
        total = sum(self.rows.values())
        columns = ", ".join(f"{role} = {name!r}" for role, name in self.columns.items())
        lines = [f"Data {self.source}: {total:,} rows" + (f" ({columns})" if columns else "")]
        if self.format:
            lines.append(f"  format: {self.format}")
        lines += [f"  note: {note}" for note in self.notes]
        lines.append("  splits: " + ", ".join(f"{name} {count:,}" for name, count in self.rows.items()))
        lines.append(self._numbers_line(self.values) if self.values is not None else self._labels_line(total))
        for unit, figures in (("characters", self.characters), ("words", self.words)):
            spread = f"median {figures['p50']}, 95 % {figures['p95']}, longest {figures['max']:,}"
            lines.append(f"  {unit} per row: {spread}")
        across = f"{self.shared:,} of them across splits" if self.shared else "none across splits"
        lines.append(f"  duplicate rows: {self.duplicates:,}" + (f" ({across})" if self.duplicates else ""))
        for reason, count in self.dropped.items():
            lines.append(f"  dropped: {count:,} rows ({reason})")
        return lines

    def _labels_line(self, total: int) -> str:
        shown = list(self.labels.items())[:MAX_SHOWN_LABELS]
        shares = ", ".join(f"{name} {count:,} ({100 * count / total:.0f} %)" for name, count in shown)
        more = f" and {len(self.labels) - len(shown)} more" if len(shown) < len(self.labels) else ""
        kind = "multi-label: a row can have several" if self.multi_label else "single-label: a row has one"
        return f"  labels: {shares}{more} ({kind})"

    def _numbers_line(self, values: tuple[float, float, float]) -> str:
        low, high, mean = values
        return f"  {next(iter(self.labels))}: from {low:g} to {high:g}, mean {mean:.3g} (one number for each row)"


@dataclass(frozen=True)
class Dataset:
    """Three splits of one task. The test split is read once, for the report."""

    train: Split
    validation: Split
    test: Split
    label_names: tuple[str, ...]
    problem_type: DataProblem
    summary: DataSummary

    @property
    def multi_label(self) -> bool:
        """True if a row may have several labels."""
        return self.problem_type == "multi_label_classification"

    @property
    def one_score(self) -> bool:
        """True if a row has a number or a relevance instead of labels."""
        return len(self.label_names) == 1

    @property
    def pairs(self) -> bool:
        """True if a row has two texts."""
        return self.train.text_pairs is not None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: the label names and every row of every split, in order."""
        digest = hashlib.sha256(json.dumps([self.problem_type, self.label_names]).encode())
        for name in SPLITS:
            digest.update(f"\n{name}\n".encode())
            for row in getattr(self, name).rows():
                digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


def describe(dataset: Dataset) -> Dataset:
    """Return the same data with the counts of its summary filled in."""
    rows = [row for name in SPLITS for row in getattr(dataset, name).rows()]
    earlier: set[tuple[str, str]] = set()
    shared = 0
    for name in SPLITS:
        keys = getattr(dataset, name).duplicate_keys()
        shared += sum(key in earlier for key in keys)
        earlier.update(keys)
    texts = [row["text"] + (" " + row["text_pair"] if "text_pair" in row else "") for row in rows]
    values: tuple[float, float, float] | None = None
    counts: list[int]
    if dataset.one_score:
        numbers = np.ravel([row["label"] for row in rows])
        counts, values = [len(rows)], (float(numbers.min()), float(numbers.max()), float(numbers.mean()))
    elif dataset.multi_label:
        counts = np.sum([row["label"] for row in rows], axis=0).tolist()
    else:
        counter = Counter(row["label"] for row in rows)
        counts = [counter[index] for index in range(len(dataset.label_names))]
    summary = replace(
        dataset.summary,
        rows={name: len(getattr(dataset, name)) for name in SPLITS},
        labels={name: int(count) for name, count in zip(dataset.label_names, counts, strict=True)},
        characters=_spread([len(text) for text in texts]),
        words=_spread([len(text.split()) for text in texts]),
        duplicates=len(rows) - len(earlier),
        shared=shared,
        values=values,
    )
    return replace(dataset, summary=summary)


def _spread(values: list[int]) -> dict[str, int]:
    p50, p95 = (int(value) for value in np.percentile(values, [50, 95]))
    return {"p50": p50, "p95": p95, "max": max(values)}
