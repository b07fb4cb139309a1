"""The tasks of the accuracy benchmark: their rows and metrics.

Every task has JSON lines with `text`, `label` and, for pairs, `text_pair`. Of GLUE's tasks `validation.jsonl`, the
development set, is the test split. The test split of no task is used for any choice. A tenth of the training rows
becomes the validation split of a task that has none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.unlabeled import UnlabeledRows, load_unlabeled
from sparserve.models.errors import DataError
from sparserve.models.files import sha256, write_atomically

Metric = Literal["accuracy", "f1", "mcc"]
SST2_ROWS = 16_000
SUBSET_SEED = 0


@dataclass(frozen=True)
class Task:
    """One task, with its files relative to the folder of the data.

    F1 is that of the label `positive`. Rows with the label `out_of_scope` do not count in the score, but they have a
    recall. `max_length` replaces that of every recipe. Rows of `unlabeled` that no split has are more texts of the
    task; their labels, if any, are not read.
    """

    name: str
    metric: Metric
    train: str
    test: str
    validation: str | None = None
    positive: str = ""
    out_of_scope: str | None = None
    rows: int | None = None
    max_length: int | None = None
    unlabeled: str | None = None

    def files(self, data: Path) -> dict[str, Path]:
        """Return the paths of the files by split."""
        names = {"train": self.train, "test": self.test, "validation": self.validation}
        return {split: data / name for split, name in names.items() if name is not None}

    def load(self, data: Path, work: Path) -> Dataset:
        """Load the rows. Of a large training split, write a fixed random subset into `work` and use that.

        Raises:
            DataError: the files are missing or invalid.
        """
        files = self.files(data)
        train = files.pop("train")
        if self.rows is not None:
            train = _subset(train, self.rows, work, self.name)
        return load_dataset(train, splits=files)

    def load_unlabeled(self, data: Path, dataset: Dataset) -> UnlabeledRows:
        """Load the unlabelled rows of the task. `dataset` are its labelled ones.

        Raises:
            DataError: the file is missing or invalid.
        """
        if self.unlabeled is None:
            raise DataError(f"{self.name} has no unlabelled rows: set Task.unlabeled to a file of texts.")
        return load_unlabeled(data / self.unlabeled, dataset)

    def score(self, predicted: Sequence[int], labels: Sequence[int], label_names: Sequence[str]) -> float:
        """Return the metric of the task in points (0 to 100; MCC: -100 to 100)."""
        truth, prediction = np.asarray(labels), np.asarray(predicted)
        if self.out_of_scope is not None:
            in_scope = truth != label_names.index(self.out_of_scope)
            truth, prediction = truth[in_scope], prediction[in_scope]
        if self.metric == "accuracy":
            return 100 * float(accuracy_score(truth, prediction))
        if self.metric == "mcc":
            return 100 * float(matthews_corrcoef(truth, prediction))
        positive = label_names.index(self.positive)
        return 100 * float(f1_score(truth == positive, prediction == positive, zero_division=0))

    def out_of_scope_recall(
        self, predicted: Sequence[int], labels: Sequence[int], label_names: Sequence[str]
    ) -> float | None:
        """Return the percentage of the out-of-scope rows with that label predicted; None for a task without them."""
        if self.out_of_scope is None:
            return None
        label = label_names.index(self.out_of_scope)
        return 100 * float((np.asarray(predicted)[np.asarray(labels) == label] == label).mean())


def _glue(name: str, metric: Metric, **fields: Any) -> Task:
    return Task(name, metric, f"{name}/train.jsonl", f"{name}/validation.jsonl", **fields)


TASKS = {
    task.name: task
    for task in (
        _glue("cola", "mcc"),
        _glue("mrpc", "f1", positive="equivalent", unlabeled="mrpc/test.jsonl"),
        _glue("rte", "accuracy"),
        _glue("sst2", "accuracy", rows=SST2_ROWS, unlabeled="sst2/train.jsonl"),
        Task(
            "clinc150",
            "accuracy",
            "clinc150/train.jsonl",
            "clinc150/test.jsonl",
            "clinc150/validation.jsonl",
            out_of_scope="oos",
        ),
        Task(
            "imdb",
            "accuracy",
            "reviews16/imdb.train.jsonl",
            "reviews16/imdb.test.jsonl",
            max_length=256,  # half of the reviews have more than 196 words
        ),
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
