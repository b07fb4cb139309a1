"""Model of the run time of batches, learned from past batches."""

import math
from typing import Final

# Weight of a batch after the next one: the last twenty batches dominate.
DECAY: Final = 0.95
# A batch that is this many times slower or faster than predicted is an outlier, for example a pause of the machine.
OUTLIER_RATIO: Final = 4.0
# If the batch sizes vary by a smaller fraction of their mean, fixed and per-token cost cannot be separated.
MIN_SIZE_VARIATION: Final = 0.05


class LatencyModel:
    """Seconds of a batch: `fixed_seconds` for any batch plus `seconds_per_token` for each token that costs time.

    It is a least-squares line through the last batches. All predictions are 0 until the first batch has run.
    """

    __slots__ = ("_sums", "fixed_seconds", "seconds_per_token")

    def __init__(self, fixed_seconds: float = 0.0, seconds_per_token: float = 0.0) -> None:
        self.fixed_seconds = fixed_seconds
        self.seconds_per_token = seconds_per_token
        # Weighted sums of 1, tokens, seconds, tokens squared, and tokens times seconds.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def seconds(self, tokens: int) -> float:
        """Predict the seconds of a batch of `tokens` tokens."""
        return self.fixed_seconds + tokens * self.seconds_per_token

    def tokens(self, seconds: float) -> float:
        """Return the size of a batch that takes `seconds`."""
        remaining = seconds - self.fixed_seconds
        if remaining <= 0:
            return 0.0
        return remaining / self.seconds_per_token if self.seconds_per_token else math.inf

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a batch of `tokens` tokens that took `seconds`."""
        predicted = self.seconds(tokens)
        if predicted > OUTLIER_RATIO * seconds:
            self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # the earlier batches were the outliers
        elif predicted:
            seconds = min(seconds, OUTLIER_RATIO * predicted)
        weight, x, y, xx, xy = self._sums
        weight, x, y = DECAY * weight + 1.0, DECAY * x + tokens, DECAY * y + seconds
        xx, xy = DECAY * xx + tokens * tokens, DECAY * xy + tokens * seconds
        self._sums = (weight, x, y, xx, xy)
        mean, variance = x / weight, xx / weight - (x / weight) ** 2
        max_slope = y / x
        if variance > (MIN_SIZE_VARIATION * mean) ** 2:
            slope = (xy / weight - mean * y / weight) / variance
            self.seconds_per_token = min(max(slope, 0.0), max_slope)
        else:
            self.seconds_per_token = max_slope
        self.fixed_seconds = (y - self.seconds_per_token * x) / weight
