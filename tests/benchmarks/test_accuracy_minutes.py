"""Choice of the runs of the accuracy benchmark that fit into some minutes."""

import math
from typing import Any

from benchmarks.accuracy.minutes import by_gap, fitting, gaps
from benchmarks.accuracy.scales.base import BASE
from benchmarks.accuracy.scales.grid import Cell, cells

METHODS = ["obert", "sparsebert-best", "sparsebert-best, 16 batches"]


def run(task: str, method: str, points: float, level: str = "95 %", seed: int = 0) -> dict[str, Any]:
    fields = {"scale": "mpnet-base", "task": task, "method": method, "level": level, "seed": seed}
    return {**fields, "drop": {"points": points}}


RUNS = [
    run("cola", "obert", 20.0),
    run("cola", "sparsebert-best", 14.0),
    run("cola", "sparsebert-best", 16.0, seed=1),
    run("mrpc", "sparsebert-best", 0.8),
    run("mrpc", "sparsebert-best", 1.0, level="80 %"),  # a level without a target
]


def test_gaps_are_those_of_the_best_method() -> None:
    found = gaps(RUNS)
    assert {place[1:]: round(gap, 6) for place, gap in found.items()} == {
        ("cola", "95 %"): 13.6,
        ("mrpc", "95 %"): -0.6,
    }


def test_gaps_leave_out_teachers_that_had_not_converged() -> None:
    old = run("cola", "sparsebert-best", 4.0) | {"scale": "minilm-l6"}
    assert gaps([old]) == {}
    (gap,) = gaps([old, old | {"teacher": {"found": True}, "drop": {"points": 3.0}}]).values()
    assert gap == 2


def test_by_gap_puts_unmeasured_places_first_and_the_favourite_before_others() -> None:
    grid = list(cells(BASE, ["mrpc", "cola", "rte"], METHODS, seeds=1))
    ranked = by_gap(grid, RUNS)
    places = [(cell.task, cell.level) for _, cell in ranked]
    assert set(places[:12]) == {("rte", "95 %"), ("rte", "90 %"), ("cola", "90 %"), ("mrpc", "90 %")}
    assert places[12:15] == [("cola", "95 %")] * 3 and places[15:] == [("mrpc", "95 %")] * 3
    assert [cell.method.name for _, cell in ranked[12:15]] == [*METHODS[1:], "obert"]
    assert math.isinf(ranked[0][0]) and round(ranked[12][0], 6) == 13.6


def test_fitting_counts_shared_parts_once() -> None:
    grid = list(cells(BASE, ["cola"], METHODS, ["95 %"], seeds=1))

    def remaining(cell: Cell) -> dict[str, float]:
        return {cell.title: 60.0 if cell.method.name != "obert" else 500.0, "teacher": 30.0}

    planned = list(fitting([(1.0, cell) for cell in grid], remaining, 160.0))
    assert [plan.seconds for plan in planned] == [90.0, 60.0]
    assert all(plan.cell.method.name.startswith("sparsebert-best") for plan in planned)
    assert "about 1.5 min, +1.0 points from the target" in str(planned[0])
