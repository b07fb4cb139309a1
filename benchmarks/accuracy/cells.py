"""What the tables of docs/benchmarks/accuracy.md put into their cells."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.accuracy.scores import mean_over_tasks

Record = dict[str, Any]
METRICS = {"f1": "F1", "mcc": "MCC", "accuracy": "accuracy"}
MARK = " †"
MARKED = "† Trained in another precision or by another machine's teacher than most rows of its task: compare with care."


def machines(runs: Sequence[Record]) -> str:
    """What the runs were made on."""
    named = {f"{run['machine']['cpu']}, {run['device']}, {run['precision']}, threads: {run['threads']}" for run in runs}
    return "; ".join(sorted(named))


def mean(values: Iterable[float], form: str) -> str:
    """The mean as text; "-" of nothing."""
    found = list(values)
    return form.format(sum(found) / len(found)) if found else "-"


def known(runs: Sequence[Record], name: str) -> list[float]:
    """A figure of the runs that have it."""
    return [run[name] for run in runs if run.get(name) is not None]


def mean_if_known(runs: Sequence[Record], name: str, form: str) -> str:
    """The mean over tasks of a figure that every run has; older ones lack some."""
    complete = runs and len(known(runs, name)) == len(runs)
    return form.format(mean_over_tasks(runs, lambda run: run[name])) if complete else "-"


class Marks:
    """Which of the runs of a table have another teacher or precision than most runs of their task."""

    def __init__(self, runs: Sequence[Record]) -> None:
        counts: dict[str, Counter[tuple[str, str]]] = {}
        for run in runs:
            counts.setdefault(run["task"], Counter())[_trained(run)] += 1
        self._usual = {task: found.most_common(1)[0][0] for task, found in counts.items()}
        self._given = False

    def of(self, runs: Sequence[Record]) -> str:
        """What a cell of these runs ends with."""
        odd = any(_trained(run) != self._usual[run["task"]] for run in runs)
        self._given |= odd
        return MARK if odd else ""

    @property
    def explained(self) -> str:
        """What stands below the table: the meaning of the mark, if one was given."""
        return f"\n\n{MARKED}" if self._given else ""


def _trained(run: Record) -> tuple[str, str]:
    return f"{run['dense']:.1f}", run["precision"]
