"""Temperature scaling: the fitted temperature, and its effect on probabilities."""

import numpy as np
import numpy.typing as npt
import pytest

from sparserve.models.evaluation.calibration import calibration_record, fit_temperature, negative_log_likelihood


def drawn(rows: int, sharpness: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return logits `sharpness` times those of the distribution that the labels are drawn from."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, 3))
    noise = generator.gumbel(size=(rows, 3))
    return (sharpness * logits).astype(np.float32), (logits + noise).argmax(axis=1)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_fit_temperature_finds_the_factor_of_the_logits(sharpness: float) -> None:
    assert fit_temperature(*drawn(20_000, sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_fit_temperature_is_finite_if_every_row_is_right() -> None:
    labels = np.arange(40) % 2
    logits = np.eye(2, dtype=np.float32)[labels]
    temperature = fit_temperature(logits, labels)
    # The best probability of the right label is that of the smoothed target, 41 / 42.
    assert 1 / temperature == pytest.approx(np.log(41), rel=1e-3)


def test_calibration_record_compares_with_the_logits_before() -> None:
    logits, labels = drawn(5_000, 4.0)
    record = calibration_record(logits / np.float32(4), labels, temperature=4.0, rows=9)
    assert (record.temperature, record.rows) == (4.0, 9)
    assert record.error_after < 0.05 < record.error_before
    assert record.nll_after < record.nll_before == pytest.approx(negative_log_likelihood(logits, labels))
