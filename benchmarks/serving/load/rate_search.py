"""Figures of a load from its requests, and the search for the highest rate that a server sustains."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

OK: Final = 200
REFUSALS: Final = frozenset({429, 503})
# During the first second of an overload the queue fills, so it does not show the sustained rate.
SETTLING_SECONDS: Final = 1.0


def summary(outcome: Mapping[str, Any], seconds: float, limit: float) -> dict[str, Any]:
    """Return the figures of one load of `seconds`. Goodput counts answers with status 200 within `limit` seconds.

    In `p50` and `p99` other requests have an infinite latency (None); `p99_answered` excludes them. Goodput covers the
    answers after the first second and before the last request was due. `server_cpu` is the CPU time of the server per
    answer with status 200, in seconds.
    """
    due, latency = np.asarray(outcome["due"], dtype=float), np.asarray(outcome["latency"], dtype=float)
    status = np.asarray(outcome["status"], dtype=int)
    answered, done = status == OK, due + latency
    used = outcome.get("server_seconds")
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
        "server_cpu": None if used is None or not answered.any() else float(used / answered.sum()),
        "generator_cpu": outcome["processor"],
        "generator_lag_p99": percentile(np.asarray(outcome["lag"], dtype=float), 99),
    }


def percentile(values: np.ndarray, percent: float) -> float | None:
    """Return a percentile by the inverted CDF, or None if it is not finite or there are no values."""
    if not len(values):
        return None
    value = float(np.percentile(values, percent, method="inverted_cdf"))
    return value if math.isfinite(value) else None


@dataclass
class RateSearch:
    """Search for the highest rate with a p99 latency within `limit` seconds, by growing factors and then bisection.

    The first factor is `growth`; it is squared after every further rate in the same direction, up to 2. Until `rate` is
    None, measure at `rate` and `record` the p99. A rate that fails by little is measured once more, because other
    processes on the machine make a server slower at times, never faster.
    """

    start: float
    limit: float
    resolution: float = 0.05
    max_points: int = 12
    growth: float = 2.0
    passed: float = 0.0
    failed: float = math.inf
    points: int = 0
    _doubtful: float | None = field(default=None, repr=False)
    _moves: int = field(default=0, repr=False)

    @property
    def is_finished(self) -> bool:
        """True if the highest rate is known within the resolution."""
        return self.failed < self.passed * (1 + self.resolution)

    @property
    def rate(self) -> float | None:
        """Requests per second to measure next, or None at the end."""
        if self.points >= self.max_points or self.is_finished:
            return None
        if self._doubtful is not None:
            return self._doubtful
        if math.isinf(self.failed):
            return self._factor * self.passed if self.passed else self.start
        return math.sqrt(self.passed * self.failed) if self.passed else self.failed / self._factor

    @property
    def _factor(self) -> float:
        return min(2.0, self.growth ** (2 ** (self._moves - 1)))

    def record(self, p99: float | None) -> bool:
        """Record the p99 measured at `rate`. Return True if it is within the limit."""
        rate, doubtful = self.rate, self._doubtful is not None
        assert rate is not None
        self.points += 1
        self._doubtful = None
        if p99 is not None and p99 <= self.limit:
            self.passed = rate
            self._moves += 1
            return True
        if p99 is not None and p99 <= 3 * self.limit and not doubtful:
            self._doubtful = rate
        else:
            self.failed = rate
            self._moves += 1
        return False
