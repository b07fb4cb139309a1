"""How good a network is on a task's rows, what it lost against its teacher on the same rows, how far it is from it."""

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
from sparserve.models.training.checkpoints import pad_token_id

Score = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float]
RESAMPLES = 1000
BATCH = 64


@torch.no_grad()
def logits(
    checkpoint: Checkpoint, dataset: Dataset, max_length: int, split: Literal["validation", "test"]
) -> npt.NDArray[np.float32]:
    """What a network says of every row of a split [rows, labels], by torch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type).to(device).eval()
    rows = tokenize(getattr(dataset, split), checkpoint.tokenizer(), max_length, multi_label=False)
    order = sorted(range(len(rows)), key=lambda row: rows.lengths[row])
    collate = Collator(pad_token_id(checkpoint))
    found = np.zeros((len(rows), len(dataset.label_names)), dtype=np.float32)
    for begin in range(0, len(order), BATCH):
        numbers = order[begin : begin + BATCH]
        batch = collate([rows[row] for row in numbers])
        inputs = {name: value.to(device) for name, value in batch.items() if name not in ("row", "labels")}
        found[numbers] = model(**inputs).logits.cpu().numpy()
    return found


def divergence(teacher: npt.NDArray[np.float32], student: npt.NDArray[np.float32]) -> float:
    """KL(teacher || student) in nats, the mean over rows, of logits [rows, labels]."""
    before, after = special.softmax(teacher, axis=-1), special.softmax(student, axis=-1)
    return float(special.rel_entr(before, after).sum(axis=-1).mean())


def paired_drop(
    score: Score, dense: npt.NDArray[np.int64], student: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Points that a student lost against its teacher, with a 95 % interval: paired percentile bootstrap over rows."""
    generator = np.random.default_rng(0)
    drops = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(labels), len(labels))
        drops.append(score(dense[rows], labels[rows]) - score(student[rows], labels[rows]))
    low, high = np.quantile(drops, [0.025, 0.975])
    return {"points": score(dense, labels) - score(student, labels), "low": float(low), "high": float(high)}


def mean_interval(values: list[float]) -> tuple[float, float | None]:
    """Mean over seeds and the half-width of its 95 % interval by Student's t; None for a single seed."""
    if len(values) < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def shared_tasks(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tasks that most methods were run on, so that means compare like with like."""
    methods: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        methods[run["task"]].add(run["method"])
    widest = max(sorted(methods), key=lambda task: len(methods[task]))
    return sorted(task for task, found in methods.items() if found >= methods[widest])


def mean_over_tasks(runs: Sequence[Mapping[str, Any]], figure: Callable[[Mapping[str, Any]], float]) -> float:
    """Mean over tasks of the mean over seeds: a task with more seeds counts as much as another."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        by_task[run["task"]].append(figure(run))
    return float(np.mean([np.mean(values) for values in by_task.values()]))
