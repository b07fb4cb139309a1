"""Rules for a teacher's training from the size of its data."""

import math

import pytest

from sparserve.models.training.tuning import rules


@pytest.mark.parametrize(
    ("rows", "labels", "tokens", "batch", "epochs"),
    [
        (15_100, 151, 12, 32, 7),  # a fixed 2e-4 for 6 epochs was good by hand
        (10_000, 77, 15, 32, 7),  # 8 epochs were good, 4 too few
        (8_000, 2, 25, 32, 4),
        (2_240, 2, 80, 16, 6),
        (120, 2, 10, 16, 12),
        (400_000, 4, 50, 32, 2),
        (20_000, 2, 400, 16, 3),
    ],
)
def test_rules_give_batch_and_epochs(rows: int, labels: int, tokens: float, batch: int, epochs: int) -> None:
    assert rules.batch_size(rows, tokens) == batch
    assert rules.epochs(rows, labels, batch) == epochs


@pytest.mark.parametrize(("rows", "epochs"), [(200, 40), (2_490, 11), (6_400, 4), (100_000, 4)])
def test_student_of_few_rows_passes_over_them_more_often(rows: int, epochs: int) -> None:
    assert rules.student_epochs(4, 800, rows, 32) == epochs


@pytest.mark.parametrize(("epochs", "slow"), [(2, 5), (4, 10), (6, 12), (12, 12)])
def test_slow_epochs_are_more_within_the_limit(epochs: int, slow: int) -> None:
    assert rules.slow_epochs(epochs) == slow


def test_batch_size_is_shared_evenly() -> None:
    assert rules.batch_size(10_000, 20, processes=3) == 33


def test_learning_rate_falls_with_width() -> None:
    assert (rules.teacher_rate(384), rules.teacher_rate(768)) == (1e-4, 5e-5)


@pytest.mark.parametrize(
    ("steps", "trial"), [(72, 0), (199, 0), (200, 40), (700, 140), (1_500, 150), (3_000, 300), (90_000, 500)]
)
def test_trial_steps_are_a_small_part(steps: int, trial: int) -> None:
    assert rules.trial_steps(steps) == trial


def test_trial_rate_is_higher_the_shorter_the_trial_up_to_a_limit() -> None:
    assert rules.trial_rate(1e-3, 600, 150) == pytest.approx(2e-3)
    assert rules.trial_rate(1e-3, 90_000, 500) == pytest.approx(1e-3 * math.sqrt(10))


def test_labels_are_uneven_from_a_ratio_of_ten() -> None:
    assert rules.are_uneven([100, 10, 0])
    assert not rules.are_uneven([70, 30])
    assert not rules.are_uneven([50])


@pytest.mark.parametrize(
    ("scores", "rows", "rising"),
    [
        ([0.45, 0.65, 0.73, 0.759], 1_000, True),  # 77 classes, 4 epochs at 5e-5
        ([0.75, 0.90, 0.93, 0.945, 0.952, 0.955, 0.956], 3_100, False),
        ([0.8, 0.9, 0.85, 0.84], 1_000, False),
        ([0.60, 0.61, 0.61, 0.63], 277, False),  # within the standard error of few rows
        ([0.5], 1_000, False),
    ],
)
def test_still_rising_needs_a_gain_beyond_noise(scores: list[float], rows: int, rising: bool) -> None:
    assert rules.still_rising(scores, rows) is rising
