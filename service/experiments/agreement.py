"""How two variants' answers to the same texts compare, as running figures with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.service.inference.engine import Logits

MULTI_LABEL_THRESHOLD: Final = 0.5
CONFIDENCE: Final = 0.95


@dataclass
class RunningMean:
    """Mean and standard error of numbers that come one by one (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take a number in."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """The mean's interval, by the normal distribution; None for fewer than two numbers."""
        if self.count < 2:
            return None
        error = math.sqrt(self.squares / (self.count - 1) / self.count)
        half = NormalDist().inv_cdf((1 + confidence) / 2) * error
        return self.mean - half, self.mean + half


@dataclass
class Agreement:
    """What has been seen of a candidate beside the variant that answers, input by input.

    The intervals take the inputs for independent ones: `DistinctInputs` says which may be added.
    """

    inputs: int = 0
    agreed: int = 0
    drift: RunningMean = field(default_factory=RunningMean)
    reference_seconds: RunningMean = field(default_factory=RunningMean)
    candidate_seconds: RunningMean = field(default_factory=RunningMean)

    def add(self, reference: Logits, candidate: Logits, agree: Sequence[bool] | npt.NDArray[np.bool_]) -> None:
        """Take in scores `[inputs, labels]` of both, columns alike, and whether they agree on each input."""
        for row, same in enumerate(agree):
            self.inputs += 1
            self.agreed += bool(same)
            self.drift.add(float(np.abs(reference[row] - candidate[row]).max()))

    @property
    def rate(self) -> float | None:
        """Fraction of inputs on which both say the same; None before the first."""
        return self.agreed / self.inputs if self.inputs else None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The agreement's interval (Wilson 1927, "Probable inference", equation for a binomial proportion)."""
        if not self.inputs:
            return 0.0, 1.0
        z, n, p = NormalDist().inv_cdf((1 + confidence) / 2), self.inputs, self.agreed / self.inputs
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(centre - half, 0.0), min(centre + half, 1.0)

    def is_below(self, level: float, confidence: float) -> bool:
        """Whether the true agreement is under `level` with this confidence, one-sided."""
        # A two-sided interval of 2 c - 1 has the one-sided bound of c.
        return self.inputs > 0 and self.interval(2 * confidence - 1)[1] < level


def said(problem_type: str, labels: Sequence[str], scores: Logits) -> str:
    """The label, or all those, that an input's scores `[labels]` say it has, as `agreeing` compares them."""
    if problem_type == "multi_label_classification" or len(labels) == 1:
        return ", ".join(label for label, score in zip(labels, scores, strict=True) if score >= MULTI_LABEL_THRESHOLD)
    return labels[int(scores.argmax())]


def agreeing(problem_type: str, one: Logits, other: Logits) -> npt.NDArray[np.bool_] | None:
    """Whether scores `[inputs, labels]` say the same of each input; None for a regression, which says numbers."""
    if problem_type == "regression":
        return None
    if problem_type == "multi_label_classification" or one.shape[-1] == 1:
        same = (one >= MULTI_LABEL_THRESHOLD) == (other >= MULTI_LABEL_THRESHOLD)
        return np.asarray(same.all(axis=-1))
    return np.asarray(one.argmax(axis=-1) == other.argmax(axis=-1))
