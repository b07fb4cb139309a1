"""Successive halving of learning rates."""

import math

from sparserve.models.training.tuning.halving import Trial, better_half, halve


def test_halve_trains_the_better_half_twice_as_long() -> None:
    # The first favourite is overtaken in the second round.
    losses = {(1, 10): 3.0, (2, 10): 1.0, (4, 10): 2.0, (8, 10): math.inf, (2, 20): 0.9, (4, 20): 0.5}
    best, trials = halve((1, 2, 4, 8), 10, lambda candidate, steps: losses[int(candidate), steps])
    assert best == 4
    assert [(trial.candidate, trial.steps) for trial in trials] == [
        (1, 10), (2, 10), (4, 10), (8, 10), (2, 20), (4, 20),
    ]  # fmt: skip


def test_halve_of_one_candidate_measures_nothing() -> None:
    assert halve((3.0,), 10, lambda candidate, steps: 1 / 0) == (3.0, ())


def test_better_half_prefers_the_earlier_of_equals() -> None:
    trials = [Trial(rate, 10, loss) for rate, loss in ((1.0, 0.694), (2.0, 0.693), (3.0, 0.5), (4.0, math.inf))]
    assert better_half(trials) == [3.0, 1.0]
    assert better_half([Trial(1.0, 10, math.inf), Trial(2.0, 10, math.inf)]) == [1.0]
