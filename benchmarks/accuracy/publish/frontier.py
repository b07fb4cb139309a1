"""The Pareto frontier of accuracy and speed over methods and levels."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.publish.cells import Record
from benchmarks.accuracy.scores import mean_over_tasks, shared_tasks

SHAPE = "1x64"


@dataclass(frozen=True)
class Point:
    """A method at a level that was measured on every task: points lost and the latency of its fastest file."""

    method: str
    level: str
    lost: float  # mean over tasks, in points
    milliseconds: float
    dense: float  # onnxruntime's, fp32, in the same session
    dense_int8: float
    runs: Sequence[Record]

    @property
    def speed(self) -> float:
        """Speed-up over int8 dense in onnxruntime. Unlike milliseconds, it is comparable between sessions."""
        return self.dense_int8 / self.milliseconds


def points(runs: Sequence[Record], latency: Sequence[Record], shape: str = SHAPE) -> list[Point]:
    """Return a point for every method and level that has a latency and all tasks that most methods share."""
    complete = by_level(runs, shared_tasks(runs))
    result = []
    for record in latency:
        key = (record["method"], record["level"])
        if key in complete:
            dense, int8 = (record["arms"][name]["milliseconds"][shape] for name in ("dense", "dense-int8"))
            lost = mean_over_tasks(complete[key], points_lost)
            result.append(Point(*key, lost, fastest(record, shape), dense, int8, complete[key]))
    return result


def fastest(record: Record, shape: str) -> float:
    """Return the milliseconds of a student's fastest file, in either runtime."""
    files = (arm for name, arm in record["arms"].items() if not name.startswith("dense"))
    return float(min(arm["milliseconds"][shape] for arm in files))


def frontier(candidates: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both speed and loss, fastest first; the first of equals."""
    kept: list[Point] = []
    for point in sorted(candidates, key=lambda point: (-point.speed, point.lost)):
        if not kept or point.lost < kept[-1].lost:
            kept.append(point)
    return kept


def by_level(runs: Sequence[Record], tasks: Sequence[str]) -> dict[tuple[str, str], list[Record]]:
    """Return the runs by method and level, for those that have every task."""
    grouped: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in runs:
        if run["task"] in tasks:
            grouped[run["method"], run["level"]].append(run)
    return {key: group for key, group in grouped.items() if {run["task"] for run in group} == set(tasks)}


def points_lost(run: Record) -> float:
    """Return the points that a student lost against its dense teacher."""
    return float(run["drop"]["points"])
