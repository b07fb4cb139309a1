"""Minutes of a benchmark's runs."""

from types import SimpleNamespace

import pytest

from benchmarks.accuracy.stopwatch import Stopwatch

KEYS = {"squeeze": "s1", "student": "t1"}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Twenty seconds pass from one look at the clock to the next."""
    seconds = iter(range(0, 100_000, 20))
    times = SimpleNamespace(monotonic=lambda: next(seconds), process_time=lambda: next(seconds))
    monkeypatch.setattr("benchmarks.accuracy.stopwatch.time", times)


def carry_out(watch, *steps):
    for step in steps:
        watch.begin(step)
        watch.end(step, cached=False, seconds=1.0)


def test_all_tries_of_a_step_that_was_interrupted_are_counted(tmp_path):
    killed, whole = (Stopwatch(tmp_path / name, {"student": "t1"}) for name in ("one", "two"))
    killed.begin("teacher")
    killed.advance(1, 2, "")
    killed.begin("student")
    killed.advance(1, 2, "")  # a kill comes after this
    assert killed.minutes is None
    again = Stopwatch(tmp_path / "one", {"student": "t1"})
    carry_out(again, "student")
    carry_out(whole, "teacher", "student")
    assert again.minutes > whole.minutes > 0


def test_a_step_that_another_run_has_done_counts_for_both(tmp_path):
    first, second = Stopwatch(tmp_path, KEYS), Stopwatch(tmp_path, KEYS | {"student": "t2"})
    carry_out(first, "squeeze", "student")
    second.end("squeeze", cached=True, seconds=0.0)
    carry_out(second, "student")
    assert second.minutes == first.minutes > Stopwatch(tmp_path, {"student": "t2"}).minutes


def test_a_step_of_unknown_length_makes_the_sum_unknown(tmp_path):
    watch = Stopwatch(tmp_path, KEYS)
    watch.end("squeeze", cached=True, seconds=0.0)
    carry_out(watch, "student")
    assert watch.minutes is None


def test_a_step_that_is_done_again_is_counted_anew(tmp_path):
    watch = Stopwatch(tmp_path, KEYS)
    carry_out(watch, "squeeze", "student")
    once = watch.minutes
    carry_out(Stopwatch(tmp_path, KEYS), "squeeze", "student")
    assert watch.minutes == once
