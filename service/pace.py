"""How fast a model runs, learnt from its batches: what an input will take, before it is begun."""

from typing import Final

# How fast it follows: a batch counts as much as all before it would after ten.
SMOOTHING: Final = 0.1


class Pace:
    """Seconds for a token, padding included; 0 until the first batch has run."""

    __slots__ = ("seconds_per_token",)

    def __init__(self, seconds_per_token: float = 0.0) -> None:
        self.seconds_per_token = seconds_per_token

    def ran(self, padded_tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long."""
        found = seconds / padded_tokens
        weight = SMOOTHING if self.seconds_per_token else 1.0
        self.seconds_per_token += weight * (found - self.seconds_per_token)
