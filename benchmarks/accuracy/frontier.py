"""What loses least at each speed: the points that no other method and level beats in both."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.cells import Record
from benchmarks.accuracy.scores import mean_over_tasks, shared_tasks

SHAPE = "1x64"


@dataclass(frozen=True)
class Point:
    """A method at a level that was measured on every task: points lost, and its fastest file."""

    method: str
    level: str
    lost: float  # mean over tasks, in points
    milliseconds: float
    dense: float  # onnxruntime's, fp32, in the same session
    dense_int8: float
    runs: Sequence[Record]

    @property
    def speed(self) -> float:
        """Times faster than onnxruntime's int8 dense: unlike milliseconds, comparable between sessions."""
        return self.dense_int8 / self.milliseconds


def points(runs: Sequence[Record], latency: Sequence[Record], shape: str = SHAPE) -> list[Point]:
    """Every method and level with all tasks that most methods share, and a latency."""
    found = by_level(runs, shared_tasks(runs))
    made = []
    for one in latency:
        key = (one["method"], one["level"])
        if key in found:
            dense, int8 = (one["arms"][name]["milliseconds"][shape] for name in ("dense", "dense-int8"))
            lost = mean_over_tasks(found[key], points_lost)
            made.append(Point(*key, lost, fastest(one, shape), dense, int8, found[key]))
    return made


def fastest(one: Record, shape: str) -> float:
    """Milliseconds of the fastest of a student's files, in either runtime."""
    files = (arm for name, arm in one["arms"].items() if not name.startswith("dense"))
    return float(min(arm["milliseconds"][shape] for arm in files))


def frontier(found: Sequence[Point]) -> list[Point]:
    """Those than which none is both at least as fast and loses no more; the fastest first, of equals the first."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (-point.speed, point.lost)):
        if not kept or point.lost < kept[-1].lost:
            kept.append(point)
    return kept


def by_level(runs: Sequence[Record], tasks: Sequence[str]) -> dict[tuple[str, str], list[Record]]:
    """Runs by method and level, of those that have every task."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in runs:
        if run["task"] in tasks:
            found[run["method"], run["level"]].append(run)
    return {key: some for key, some in found.items() if {run["task"] for run in some} == set(tasks)}


def points_lost(run: Record) -> float:
    """What a student lost against its dense teacher."""
    return float(run["drop"]["points"])
