"""Cells of the tables of docs/benchmarks/accuracy.md."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.accuracy.scales import SCALES
from benchmarks.accuracy.scores import mean_over_tasks, teacher_kind

Record = dict[str, Any]
METRICS = {"f1": "F1", "mcc": "MCC", "accuracy": "accuracy"}
MARK = " †"
MARKED = "† Trained in another precision or from another teacher than most rows of its task. Compare with care."


def machines(runs: Sequence[Record]) -> str:
    """Return the machines, precisions and thread counts of the runs."""
    named = {f"{run['machine']['cpu']}, {run['device']}, {run['precision']}, threads: {run['threads']}" for run in runs}
    return "; ".join(sorted(named))


def mean(values: Iterable[float], form: str) -> str:
    """Return the formatted mean, or "-" without values."""
    numbers = list(values)
    return form.format(sum(numbers) / len(numbers)) if numbers else "-"


def known(runs: Sequence[Record], name: str) -> list[float]:
    """Return the values of a field in the runs that have it."""
    return [run[name] for run in runs if run.get(name) is not None]


def mean_if_known(runs: Sequence[Record], name: str, form: str) -> str:
    """Return the formatted mean over tasks of a field, or "-" if an older run lacks it."""
    complete = runs and len(known(runs, name)) == len(runs)
    return form.format(mean_over_tasks(runs, lambda run: run[name])) if complete else "-"


def teachers(runs: Sequence[Record]) -> str:
    """Return the trainings of the teachers of some runs: auto or fixed, with their learning rates and epochs."""
    parts = []
    for kind in ("auto", "fixed"):
        courses = [_course(run) for run in runs if teacher_kind(run) == kind]
        if courses:
            rates = "/".join(f"{rate:g}" for rate in sorted({rate for rate, _ in courses}))
            epochs = "/".join(f"{count:g}" for count in sorted({count for _, count in courses}))
            parts.append(f"{kind}: {rates}, {epochs} epochs")
    return "; ".join(parts)


def _course(run: Record) -> tuple[float, float]:
    """Return the learning rate and the epochs of a run's teacher. Older records lack those of a fixed one."""
    if "teacher" in run:
        return run["teacher"]["learning_rate"], run["teacher"]["epochs"]
    scale = SCALES[run["scale"]]
    return scale.teacher_rate, scale.epochs[run["task"]][0]


class Marks:
    """Marks for the runs of a table with another teacher or precision than most runs of their task."""

    def __init__(self, runs: Sequence[Record]) -> None:
        counts: dict[str, Counter[tuple[str, str]]] = {}
        for run in runs:
            counts.setdefault(run["task"], Counter())[_trained(run)] += 1
        self._usual = {task: counter.most_common(1)[0][0] for task, counter in counts.items()}
        self._used = False

    def of(self, runs: Sequence[Record]) -> str:
        """Return the mark for a cell of these runs, or an empty string."""
        odd = any(_trained(run) != self._usual[run["task"]] for run in runs)
        self._used |= odd
        return MARK if odd else ""

    @property
    def explanation(self) -> str:
        """The note below the table, if a mark was used."""
        return f"\n\n{MARKED}" if self._used else ""


def _trained(run: Record) -> tuple[str, str]:
    return f"{run['dense']:.1f}", run["precision"]
