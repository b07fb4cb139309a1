"""The Pareto frontier of docs/benchmarks/accuracy.md."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.publish.frontier import Point, frontier, points
from benchmarks.accuracy.publish.speed import frontier_table


def point(lost: Any, milliseconds: Any, dense_int8: Any = 8.0) -> Any:
    return Point("magnitude", "95 %", lost, milliseconds, 2 * dense_int8, dense_int8, ())


def run(method: Any, task: Any, lost: Any, **changes: Any) -> Any:
    return {"method": method, "level": "95 %", "task": task, "drop": {"points": lost}, "minutes": 2.0, **changes}


def timed(method: Any, fastest: Any, *, dense_int8: Any = 8.0) -> Any:
    times = {"dense": 16.0, "dense-int8": dense_int8, "fp32": 9.0, "sparse int8": fastest}
    arms = {name: {"milliseconds": {"1x64": time}} for name, time in times.items()}
    return {"method": method, "level": "95 %", "arms": arms}


@given(st.lists(st.tuples(st.floats(-5, 30), st.floats(0.1, 20), st.floats(5, 10)), max_size=12))
def test_frontier_is_pareto_optimal(figures: Any) -> None:
    every = [point(*three) for three in figures]
    kept = frontier(every)
    for one in every:
        as_good = [k for k in kept if k.speed >= one.speed and k.lost <= one.lost]
        assert as_good == [one] if one in kept else as_good
    assert [k.speed for k in kept] == sorted((k.speed for k in kept), reverse=True)


def test_frontier_compares_sessions_by_their_dense_model() -> None:
    slow_minute = point(1.0, milliseconds=2.0, dense_int8=16.0)
    quick_minute = point(2.0, milliseconds=1.5, dense_int8=8.0)
    assert frontier([slow_minute, quick_minute]) == [slow_minute]


def test_points_use_task_mean_and_fastest_file() -> None:
    runs = [
        run("obert", "mrpc", 1.0, seed=0),
        run("obert", "mrpc", 3.0, seed=1),
        run("obert", "cola", 6.0, seed=0),
        run("platon", "mrpc", 1.0),
        run("platon", "cola", 1.0),
        run("movement", "rte", 0.0),
    ]
    found = points(runs, [timed("obert", 2.0), timed("movement", 1.0), timed("magnitude", 1.0)])
    assert [(one.method, one.lost, one.milliseconds, one.speed) for one in found] == [("obert", 4.0, 2.0, 4.0)]
    text = frontier_table(runs, [timed("obert", 2.0), timed("platon", 4.0)])
    assert text.splitlines()[-2:] == [
        "| obert 95 % | 8.0 / 4.0 | 4.0 | - | 2.0 |",
        "| platon 95 % | 4.0 / 2.0 | 1.0 | - | 2.0 |",
    ]
    assert frontier_table(runs, [timed("movement", 1.0)]) == ""
