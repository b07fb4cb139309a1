"""From single requests to figures of a load, and the search for the highest rate that a server bears."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

OK: Final = 200
REFUSALS: Final = frozenset({429, 503})
# An overloaded server's first second is its empty queue filling up, not what it bears.
SETTLING_SECONDS: Final = 1.0


def summary(outcome: Mapping[str, Any], seconds: float, limit: float) -> dict[str, Any]:
    """Figures of one load of `seconds`; an answer counts for goodput when its status is 200 and it took up to `limit`.

    In `p50` and `p99` a request without such a status took for ever (None); in `p99_answered` it is left out. Goodput
    is of the answers that came after the first second, and before the last request was due.
    """
    due, latency = np.asarray(outcome["due"], dtype=float), np.asarray(outcome["latency"], dtype=float)
    status = np.asarray(outcome["status"], dtype=int)
    answered, done = status == OK, due + latency
    settling = min(SETTLING_SECONDS, seconds / 4)
    good = answered & (latency <= limit) & (done > settling) & (done <= seconds)
    statuses, counts = np.unique(status, return_counts=True)
    return {
        "requests": len(status),
        "statuses": {str(code): int(count) for code, count in zip(statuses, counts, strict=True)},
        "p50": percentile(np.where(answered, latency, np.inf), 50),
        "p99": percentile(np.where(answered, latency, np.inf), 99),
        "p99_answered": percentile(latency[answered], 99),
        "longest": float(latency.max()) if len(latency) else None,
        "goodput": float(good.sum() / (seconds - settling)),
        "shed": float(np.isin(status, list(REFUSALS)).mean()) if len(status) else 0.0,
        "failed": float((~answered).mean()) if len(status) else 1.0,
        "generator_cpu": outcome["processor"],
        "generator_lag_p99": percentile(np.asarray(outcome["lag"], dtype=float), 99),
    }


def percentile(values: np.ndarray, percent: float) -> float | None:
    """The smallest value that so many percent of all do not exceed; None where that is not finite, or there is none."""
    if not len(values):
        return None
    found = float(np.percentile(values, percent, method="inverted_cdf"))
    return found if math.isfinite(found) else None


@dataclass
class RateSearch:
    """The highest rate at which the p99 latency stays within `limit` seconds: by doubling, then by bisection.

    Ask for `rate`, measure there, tell `p99`, until `rate` is None. A rate that fails by little is measured once more:
    what else runs on a machine makes a server slower now and then, and never faster.
    """

    start: float
    limit: float
    resolution: float = 0.05
    most: int = 12
    passed: float = 0.0
    failed: float = math.inf
    points: int = 0
    _doubtful: float | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """Whether the highest rate is known as closely as is wanted."""
        return self.failed < self.passed * (1 + self.resolution)

    @property
    def rate(self) -> float | None:
        """Requests a second to measure next."""
        if self.points >= self.most or self.found:
            return None
        if self._doubtful is not None:
            return self._doubtful
        if math.isinf(self.failed):
            return 2 * self.passed if self.passed else self.start
        return math.sqrt(self.passed * self.failed) if self.passed else self.failed / 2

    def tell(self, p99: float | None) -> bool:
        """What was measured at `rate`; whether that is within the limit."""
        rate, doubtful = self.rate, self._doubtful is not None
        assert rate is not None
        self.points += 1
        self._doubtful = None
        if p99 is not None and p99 <= self.limit:
            self.passed = rate
            return True
        if p99 is not None and p99 <= 3 * self.limit and not doubtful:
            self._doubtful = rate
        else:
            self.failed = rate
        return False
