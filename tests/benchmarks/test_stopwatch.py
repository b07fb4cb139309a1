"""Minutes of the steps of benchmark runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.accuracy.stopwatch import Stopwatch

KEYS = {"squeeze": "s1", "student": "t1"}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances twenty seconds per reading."""
    seconds = iter(range(0, 100_000, 20))
    times = SimpleNamespace(monotonic=lambda: next(seconds), process_time=lambda: next(seconds))
    monkeypatch.setattr("benchmarks.accuracy.stopwatch.time", times)


def carry_out(watch: Any, *steps: Any) -> None:
    for step in steps:
        watch.begin(step)
        watch.end(step, cached=False, seconds=1.0)


def test_stopwatch_counts_interrupted_attempts(tmp_path: Path) -> None:
    killed, whole = (Stopwatch(tmp_path / name, {"student": "t1"}) for name in ("one", "two"))
    killed.begin("teacher")
    killed.advance(1, 2, "")
    killed.begin("student")
    killed.advance(1, 2, "")  # a kill comes after this
    assert killed.minutes is None
    again = Stopwatch(tmp_path / "one", {"student": "t1"})
    carry_out(again, "student")
    carry_out(whole, "teacher", "student")
    minutes: Any = again.minutes, whole.minutes
    assert minutes[0] > minutes[1] > 0


def test_stopwatch_shares_step_between_runs(tmp_path: Path) -> None:
    first, second = Stopwatch(tmp_path, KEYS), Stopwatch(tmp_path, KEYS | {"student": "t2"})
    carry_out(first, "squeeze", "student")
    second.end("squeeze", cached=True, seconds=0.0)
    carry_out(second, "student")
    minutes: Any = first.minutes, Stopwatch(tmp_path, {"student": "t2"}).minutes
    assert second.minutes == minutes[0] > minutes[1]


def test_stopwatch_sum_is_unknown_without_all_steps(tmp_path: Path) -> None:
    watch = Stopwatch(tmp_path, KEYS)
    watch.end("squeeze", cached=True, seconds=0.0)
    carry_out(watch, "student")
    assert watch.minutes is None


def test_stopwatch_restarts_repeated_step(tmp_path: Path) -> None:
    watch = Stopwatch(tmp_path, KEYS)
    carry_out(watch, "squeeze", "student")
    once = watch.minutes
    carry_out(Stopwatch(tmp_path, KEYS), "squeeze", "student")
    assert watch.minutes == once
