"""Running statistics of how two variants answer the same texts."""

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95


@dataclass
class RunningMean:
    """Mean and standard error of a sequence of numbers (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Add a number."""
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Return the confidence interval of the mean (normal distribution), or None for fewer than two numbers."""
        if self.count < 2:
            return None
        error = math.sqrt(self.squares / (self.count - 1) / self.count)
        half = NormalDist().inv_cdf((1 + confidence) / 2) * error
        return self.mean - half, self.mean + half


@dataclass
class RunningAgreement:
    """Statistics of a candidate against the variant that answers, input by input.

    `labelled` counts the inputs with predicted labels, which can agree; a regression has none. The intervals assume
    independent inputs, so only distinct inputs should be added (see `DistinctInputs`).
    """

    inputs: int = 0
    labelled: int = 0
    agreed: int = 0
    drift: RunningMean = field(default_factory=RunningMean)
    reference_seconds: RunningMean = field(default_factory=RunningMean)
    candidate_seconds: RunningMean = field(default_factory=RunningMean)

    def add(self, agree: bool | None, difference: float) -> None:
        """Add one input: if the predictions are the same (None without labels), and the largest score difference."""
        self.inputs += 1
        self.labelled += agree is not None
        self.agreed += agree is True
        self.drift.add(difference)

    @property
    def rate(self) -> float | None:
        """Fraction of inputs with the same label; None before the first one with a label."""
        return self.agreed / self.labelled if self.labelled else None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the confidence interval of the rate (Wilson 1927, "Probable inference")."""
        if not self.labelled:
            return 0.0, 1.0
        z, n, p = NormalDist().inv_cdf((1 + confidence) / 2), self.labelled, self.agreed / self.labelled
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(centre - half, 0.0), min(centre + half, 1.0)

    def is_below(self, level: float, confidence: float) -> bool:
        """Return True if the true rate is under `level` with this one-sided confidence."""
        # A two-sided interval with confidence 2c - 1 has the one-sided bound of confidence c.
        return self.labelled > 0 and self.interval(2 * confidence - 1)[1] < level
