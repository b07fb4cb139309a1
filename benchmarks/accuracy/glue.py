"""The GLUE tasks of the accuracy benchmark: their rows and metrics.

Every task has JSON lines with `text`, `text_pair` and `label`. A tenth of `train.jsonl` becomes the validation split.
`validation.jsonl`, the development set of GLUE, is the test split and is not used for any choice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.files import sha256, write_atomically

Metric = Literal["accuracy", "f1", "mcc"]
SST2_ROWS = 16_000
SUBSET_SEED = 0


@dataclass(frozen=True)
class Task:
    """One GLUE task. F1 is that of the label `positive`."""

    name: str
    metric: Metric
    positive: str
    rows: int | None = None

    def files(self, data: Path) -> tuple[Path, Path]:
        """Return the paths of GLUE's training and development set."""
        return data / self.name / "train.jsonl", data / self.name / "validation.jsonl"

    def load(self, data: Path, work: Path) -> Dataset:
        """Load the rows. Of a large training split, write a fixed random subset into `work` and use that.

        Raises:
            DataError: the files are missing or invalid.
        """
        train, development = self.files(data)
        if self.rows is not None:
            train = _subset(train, self.rows, work, self.name)
        return load_dataset(train, splits={"test": development})

    def score(self, predicted: Sequence[int], labels: Sequence[int], label_names: Sequence[str]) -> float:
        """Return GLUE's metric for the task in points (0 to 100; MCC: -100 to 100)."""
        if self.metric == "accuracy":
            return 100 * float(accuracy_score(labels, predicted))
        if self.metric == "mcc":
            return 100 * float(matthews_corrcoef(labels, predicted))
        positive = label_names.index(self.positive)
        truth, prediction = np.asarray(labels) == positive, np.asarray(predicted) == positive
        return 100 * float(f1_score(truth, prediction, zero_division=0))


TASKS = {
    task.name: task
    for task in (
        Task("cola", "mcc", "acceptable"),
        Task("mrpc", "f1", "equivalent"),
        Task("rte", "accuracy", "entailment"),
        Task("sst2", "accuracy", "positive", rows=SST2_ROWS),
    )
}


def _subset(source: Path, rows: int, folder: Path, name: str) -> Path:
    """Write a fixed random choice of `rows` lines and return its path, which contains a digest of the source."""
    target = folder / f"{name}-{rows}-{sha256(source)[:8]}.jsonl"
    if not target.is_file():
        # Not splitlines(), which also splits at characters that JSON does not escape.
        lines = [line for line in source.read_text(encoding="utf-8").split("\n") if line]
        chosen = np.sort(np.random.default_rng(SUBSET_SEED).choice(len(lines), size=rows, replace=False))
        for row in chosen:
            json.loads(lines[row])
        write_atomically(target, "\n".join(lines[row] for row in chosen) + "\n")
    return target
