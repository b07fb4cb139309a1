"""Labelled text: splits, their digest, and what is told of them.

Single-label rows carry one label's index; multi-label rows a 0 or 1 for every label, in the order of `label_names`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

DataProblem = Literal["single_label_classification", "multi_label_classification"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Rows of text with their labels; `text_pairs` is None where the task has one text a row."""

    texts: Sequence[str]
    text_pairs: Sequence[str] | None
    labels: Sequence[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as plain data."""
        pairs = self.text_pairs if self.text_pairs is not None else [None] * len(self)
        for text, pair, label in zip(self.texts, pairs, self.labels, strict=True):
            yield {"text": text, **({"text_pair": pair} if pair is not None else {}), "label": label}

    def duplicate_keys(self) -> list[tuple[str, str]]:
        """What makes each row the same as another: its texts but for case and surrounding space."""
        pairs = self.text_pairs if self.text_pairs is not None else [""] * len(self)
        return [
            (text.strip().casefold(), pair.strip().casefold()) for text, pair in zip(self.texts, pairs, strict=True)
        ]

    def take(self, rows: Sequence[int]) -> "Split":
        """These rows, in this order."""
        return Split(
            [self.texts[row] for row in rows],
            [self.text_pairs[row] for row in rows] if self.text_pairs is not None else None,
            [self.labels[row] for row in rows],
        )


@dataclass(frozen=True)
class DataSummary:
    """What a user should know of the data before waiting for a model of it.

    `duplicates` counts the rows whose text came before, in the order of the splits, and `shared` those of them whose
    text came in an earlier split.
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

    def lines(self) -> list[str]:
        """The summary for a terminal."""
        total = sum(self.rows.values())
        columns = ", ".join(f"{role} = {name!r}" for role, name in self.columns.items())
        lines = [f"Data {self.source}: {total:,} rows" + (f" ({columns})" if columns else "")]
        lines += [f"  note: {note}" for note in self.notes]
        lines.append("  splits: " + ", ".join(f"{name} {count:,}" for name, count in self.rows.items()))
        shares = ", ".join(f"{name} {count:,} ({100 * count / total:.0f} %)" for name, count in self.labels.items())
        lines.append(f"  labels: {shares}")
        for unit, figures in (("characters", self.characters), ("words", self.words)):
            lines.append(f"  {unit} a row: median {figures['p50']}, 95 % {figures['p95']}, longest {figures['max']:,}")
        where = f"{self.shared:,} of them across splits" if self.shared else "none across splits"
        lines.append(f"  duplicate rows: {self.duplicates:,}" + (f" ({where})" if self.duplicates else ""))
        for reason, count in self.dropped.items():
            lines.append(f"  dropped: {count:,} rows ({reason})")
        return lines


@dataclass(frozen=True)
class Dataset:
    """Three splits of one task. The test split is used once, for the report."""

    train: Split
    validation: Split
    test: Split
    label_names: tuple[str, ...]
    problem_type: DataProblem
    summary: DataSummary

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return self.problem_type == "multi_label_classification"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: labels and every row of every split, in order."""
        digest = hashlib.sha256(json.dumps([self.problem_type, self.label_names]).encode())
        for name in SPLITS:
            digest.update(f"\n{name}\n".encode())
            for row in getattr(self, name).rows():
                digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


def describe(dataset: Dataset) -> Dataset:
    """The same data with the counted parts of its summary filled in."""
    every = [row for name in SPLITS for row in getattr(dataset, name).rows()]
    seen: set[tuple[str, str]] = set()
    shared = 0
    for name in SPLITS:
        keys = getattr(dataset, name).duplicate_keys()
        shared += sum(key in seen for key in keys)
        seen.update(keys)
    texts = [row["text"] + (" " + row["text_pair"] if "text_pair" in row else "") for row in every]
    multi_label = dataset.problem_type == "multi_label_classification"
    if multi_label:
        counts = np.sum([row["label"] for row in every], axis=0)
    else:
        counter = Counter(row["label"] for row in every)
        counts = np.asarray([counter[index] for index in range(len(dataset.label_names))])
    summary = replace(
        dataset.summary,
        rows={name: len(getattr(dataset, name)) for name in SPLITS},
        labels={name: int(count) for name, count in zip(dataset.label_names, counts, strict=True)},
        characters=_spread([len(text) for text in texts]),
        words=_spread([len(text.split()) for text in texts]),
        duplicates=len(every) - len(seen),
        shared=shared,
    )
    return replace(dataset, summary=summary)


def _spread(values: list[int]) -> dict[str, int]:
    p50, p95 = (int(value) for value in np.percentile(values, [50, 95]))
    return {"p50": p50, "p95": p95, "max": max(values)}
