"""Search on a geometric grid."""

import math
from collections.abc import Callable

import pytest

from sparserve.models.training.tuning.climbing import climb


def valley(best: float) -> Callable[[float, int], float]:
    return lambda candidate, steps: 1 + abs(math.log2(candidate / best))


@pytest.mark.parametrize(
    ("best", "candidates"),
    [
        (1.0, [1.0, 2.0, 0.5]),
        (2.0, [1.0, 2.0, 4.0]),
        (0.25, [1.0, 2.0, 0.5, 0.25]),
        (8.0, [1.0, 2.0, 4.0, 8.0]),
    ],
)
def test_climb_follows_the_direction_that_improves(best: float, candidates: list[float]) -> None:
    found, trials = climb(1.0, 10, 4, valley(best))
    assert found == best
    assert [trial.candidate for trial in trials] == candidates


def test_climb_keeps_the_start_of_equals() -> None:
    found, trials = climb(1.0, 10, 4, lambda candidate, steps: 0.999 if candidate > 1 else 1.0)
    assert (found, len(trials)) == (1.0, 3)


def test_climb_halves_a_start_that_diverges() -> None:
    found, trials = climb(1.0, 10, 4, lambda candidate, steps: math.inf if candidate > 0.3 else 1.0)
    assert found == 0.25
    assert [trial.candidate for trial in trials] == [1.0, 0.5, 0.25, 0.125]
    assert math.isinf(climb(1.0, 10, 2, lambda candidate, steps: math.inf)[1][-1].loss)
