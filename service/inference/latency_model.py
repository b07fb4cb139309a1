"""How fast a model runs, learnt from its batches: what a batch will take, before it is begun."""

import math
from typing import Final

# What a batch counts for after the next one: the last twenty say most.
KEPT: Final = 0.95
# A batch so many times slower or faster than expected says little of the model: the machine had a pause, or has now.
SURPRISE: Final = 4.0
# Batches whose sizes differ by less of their mean do not tell what is for the batch and what for its tokens.
SPREAD: Final = 0.05


class Pace:
    """Seconds of a batch: `fixed` for any one, and `per_token` for each token of it, padding included.

    The straight line through the last batches, by least squares; 0 until the first has run.
    """

    __slots__ = ("_sums", "fixed", "per_token")

    def __init__(self, fixed: float = 0.0, per_token: float = 0.0) -> None:
        self.fixed = fixed
        self.per_token = per_token
        # Of weights, tokens, seconds, squared tokens, tokens by seconds.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def seconds(self, tokens: int) -> float:
        """What a batch of so many tokens takes."""
        return self.fixed + tokens * self.per_token

    def tokens(self, seconds: float) -> float:
        """How many tokens a batch may have to take so long."""
        left = seconds - self.fixed
        if left <= 0:
            return 0.0
        return left / self.per_token if self.per_token else math.inf

    def ran(self, tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long."""
        expected = self.seconds(tokens)
        if expected > SURPRISE * seconds:
            self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # what was slow is over
        elif expected:
            seconds = min(seconds, SURPRISE * expected)
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        weight, x, y, xx, xy = (KEPT * old + one for old, one in zip(self._sums, new, strict=True))
        self._sums = (weight, x, y, xx, xy)
        mean, variance = x / weight, xx / weight - (x / weight) ** 2
        steepest = y / x
        if variance > (SPREAD * mean) ** 2:
            slope = (xy / weight - mean * y / weight) / variance
            self.per_token = min(max(slope, 0.0), steepest)
        else:
            self.per_token = steepest
        self.fixed = (y - self.per_token * x) / weight
