"""The choice between one thread and all of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sparserve.models.pipeline import threads
from sparserve.models.pipeline.threads import ThreadChooser, faster_threads
from sparserve.models.progress import PlainReporter


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sparserve.models.pipeline.threads.time.monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_faster_threads_measures_and_keeps_the_random_numbers() -> None:
    state = torch.get_rng_state()
    with torch.inference_mode():  # the caller may be anywhere
        assert faster_threads(2, 16) in (1, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_thread_chooser_measures_again_when_training_becomes_slow(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [4, 1, 4]
    asked: list[float] = []

    def measured(most: int, width: int) -> int:
        asked.append(clock.now)
        torch.set_num_threads(answers[len(asked) - 1])
        return answers[len(asked) - 1]

    monkeypatch.setattr(threads, "faster_threads", measured)
    torch.set_num_threads(4)
    chooser: Any = ThreadChooser(PlainReporter(), most=4, width=384)

    def train(steps: int, seconds: float) -> None:
        for _ in range(steps):
            clock.now += seconds
            chooser.advance(1, 2, "")

    chooser.begin("teacher")
    train(100, 1.0)
    assert asked == [0.0]
    train(20, 5.0)  # a neighbour
    assert len(asked) == 2 and torch.get_num_threads() == 1
    train(100, 2.0)
    assert len(asked) == 2
    chooser.end("teacher", cached=False, seconds=1.0)
    chooser.begin("student")
    assert torch.get_num_threads() == 4
    chooser.begin("export")  # soon after
    assert len(asked) == 3
    output = capsys.readouterr().out
    assert "Training uses 1 thread: 4 are slower now" in output
    assert "Training uses 4 threads again" in output
