"""Scores of a network, its loss against its teacher on the same rows, and their divergence."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import special, stats

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import Collator, tokenize
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier

Score = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float]
RESAMPLES = 1000
BATCH = 64


@torch.no_grad()
def logits(
    checkpoint: Checkpoint, dataset: Dataset, max_length: int, split: Literal["validation", "test"]
) -> npt.NDArray[np.float32]:
    """Return the logits of a network for every row of a split, [rows, labels], computed by torch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type).to(device).eval()
    rows = tokenize(getattr(dataset, split), checkpoint.tokenizer, max_length, multi_label=False)
    order = sorted(range(len(rows)), key=lambda row: rows.lengths[row])
    collate = Collator(checkpoint.pad_token_id)
    result = np.zeros((len(rows), len(dataset.label_names)), dtype=np.float32)
    for begin in range(0, len(order), BATCH):
        numbers = order[begin : begin + BATCH]
        batch = collate([rows[row] for row in numbers])
        inputs = {name: value.to(device) for name, value in batch.items() if name not in ("row", "labels")}
        result[numbers] = model(**inputs).logits.cpu().numpy()
    return result


def divergence(teacher: npt.NDArray[np.float32], student: npt.NDArray[np.float32]) -> float:
    """Return KL(teacher || student) in nats for logits [rows, labels], the mean over rows."""
    before, after = special.softmax(teacher, axis=-1), special.softmax(student, axis=-1)
    return float(special.rel_entr(before, after).sum(axis=-1).mean())


def paired_drop(
    score: Score, dense: npt.NDArray[np.int64], student: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return the points lost against the teacher, with a 95 % interval by a paired percentile bootstrap over rows."""
    generator = np.random.default_rng(0)
    drops = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(labels), len(labels))
        drops.append(score(dense[rows], labels[rows]) - score(student[rows], labels[rows]))
    low, high = np.quantile(drops, [0.025, 0.975])
    return {"points": score(dense, labels) - score(student, labels), "low": float(low), "high": float(high)}


def mean_interval(values: list[float]) -> tuple[float, float | None]:
    """Return the mean over seeds and the half-width of its 95 % interval by Student's t (None for one seed)."""
    if len(values) < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def shared_tasks(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tasks over which means are taken.

    Of the sets of tasks that single methods were run on, it is the one with the largest product of its tasks and of the
    methods that have them all.
    """
    methods: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        methods[run["method"]].add(run["task"])

    def figures(tasks: tuple[str, ...]) -> int:
        return len(tasks) * sum(set(tasks) <= own for own in methods.values())

    return list(max(sorted({tuple(sorted(own)) for own in methods.values()}), key=figures))


def mean_over_tasks(runs: Sequence[Mapping[str, Any]], figure: Callable[[Mapping[str, Any]], float]) -> float:
    """Return the mean over tasks of the mean over seeds, so that every task has the same weight."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        by_task[run["task"]].append(figure(run))
    return float(np.mean([np.mean(values) for values in by_task.values()]))


def teacher_kind(run: Mapping[str, Any]) -> str:
    """Return "auto" if the teacher of a recorded run found its training, or "fixed"."""
    return "auto" if run.get("teacher", {}).get("found") else "fixed"
