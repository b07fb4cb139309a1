"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2): one number that makes probabilities honest.

Logits are divided by a temperature T > 0, which changes probabilities but no prediction.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from sparserve.models.bundle.manifest import Calibration
from sparserve.models.evaluation.scores import DECIMALS, calibration_error, decisions

# Limits of T. A network outside of them has learned nothing, or answers all validation rows alike.
TEMPERATURES: Final = (0.05, 20.0)
# Digits that threads and processors agree on, so that a second run gives the same graph.
TEMPERATURE_DIGITS: Final = 4
_SINGLE: Final = "single_label_classification"

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer]


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature with the smallest cross-entropy on held-out rows of a single-label task.

    `logits` are [rows, labels], `labels` [rows]. The targets are smoothed as in Platt 1999: the wrong labels of a row
    share a probability of 1 / (rows + 2). Without it, a few rows that are all predicted right have no best temperature.

    Raises:
        ValueError: the shapes do not match.
        TrainingError: a logit is not a finite number.
    """
    truth, _ = decisions(logits, labels, logits.shape[1], _SINGLE)
    rows, width = truth.shape
    if width < 2:
        return 1.0
    wrong = 1 / (rows + 2)
    targets = np.where(truth, 1 - wrong, wrong / (width - 1))

    def cross_entropy(log_temperature: float) -> float:
        return float(-(targets * _log_softmax(logits / np.exp(log_temperature))).sum() / rows)

    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(f"{np.exp(best.x):.{TEMPERATURE_DIGITS}g}")


def calibration_record(logits: Logits, labels: Labels, *, temperature: float, rows: int) -> Calibration:
    """Return the effect of a temperature on test rows.

    `logits` are [rows, labels] after division by it, `labels` [rows]; it was fitted on `rows` validation rows.

    Raises:
        ValueError: the shapes do not match.
        TrainingError: a logit is not a finite number.
    """
    truth, _ = decisions(logits, labels, logits.shape[1], _SINGLE)
    before = logits * np.float32(temperature)
    return Calibration(
        temperature=temperature,
        rows=rows,
        error_before=calibration_error(before, truth, _SINGLE),
        error_after=calibration_error(logits, truth, _SINGLE),
        nll_before=negative_log_likelihood(before, labels),
        nll_after=negative_log_likelihood(logits, labels),
    )


def negative_log_likelihood(logits: Logits, labels: Labels) -> float:
    """Return the mean of -log p(true label) in nats, rounded to six decimals."""
    return round(float(-_log_softmax(logits)[np.arange(len(labels)), labels].mean()), DECIMALS)


def _log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
