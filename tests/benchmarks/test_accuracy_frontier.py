"""The frontier of docs/benchmarks/accuracy.md: what loses least at each speed."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.frontier import Point, frontier, points
from benchmarks.accuracy.publish import frontier_table


def point(lost, milliseconds, dense_int8=8.0):
    return Point("magnitude", "95 %", lost, milliseconds, 2 * dense_int8, dense_int8, ())


def run(method, task, lost, **changes):
    return {"method": method, "level": "95 %", "task": task, "drop": {"points": lost}, "minutes": 2.0, **changes}


def timed(method, fastest, *, dense_int8=8.0):
    times = {"dense": 16.0, "dense-int8": dense_int8, "fp32": 9.0, "sparse int8": fastest}
    arms = {name: {"milliseconds": {"1x64": time}} for name, time in times.items()}
    return {"method": method, "level": "95 %", "arms": arms}


@given(st.lists(st.tuples(st.floats(-5, 30), st.floats(0.1, 20), st.floats(5, 10)), max_size=12))
def test_nothing_beats_what_is_on_the_frontier_and_all_else_is_beaten_or_equalled(figures):
    every = [point(*three) for three in figures]
    kept = frontier(every)
    for one in every:
        as_good = [k for k in kept if k.speed >= one.speed and k.lost <= one.lost]
        assert as_good == [one] if one in kept else as_good
    assert [k.speed for k in kept] == sorted((k.speed for k in kept), reverse=True)


def test_speeds_of_different_sessions_are_compared_by_their_own_dense_model():
    slow_minute = point(1.0, milliseconds=2.0, dense_int8=16.0)
    quick_minute = point(2.0, milliseconds=1.5, dense_int8=8.0)
    assert frontier([slow_minute, quick_minute]) == [slow_minute]


def test_a_point_is_the_mean_over_the_tasks_and_its_fastest_file_and_needs_both():
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
