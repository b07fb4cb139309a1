"""Throughput of a batcher, learned from past batches."""

from typing import Final

# Weight of a batch after the next one: the last ten batches dominate.
DECAY: Final = 0.9


class Throughput:
    """Tokens per second while requests wait: the time between batches counts, in which requests are read or refused.

    It is 0 until the first batch has run, unless an initial estimate is given.
    """

    def __init__(self, tokens_per_second: float = 0.0) -> None:
        # The estimate; 0 if nothing is known.
        self.tokens_per_second = tokens_per_second
        self._tokens = tokens_per_second
        self._seconds = 1.0 if tokens_per_second else 0.0
        self._waiting_since: float | None = None

    def observe(self, tokens: int, seconds: float, *, arrived: float, now: float, waiting: bool) -> None:
        """Learn from a batch that ends now.

        Args:
            tokens: the batch's tokens.
            seconds: time that it ran, divided by the number of batches that run at the same time.
            arrived: arrival of its earliest request.
            now: current time.
            waiting: True if requests are waiting now.
        """
        if self._waiting_since is not None:
            seconds = max(now - max(self._waiting_since, arrived), seconds)
        self._waiting_since = now if waiting else None
        self._tokens = self._tokens * DECAY + tokens
        self._seconds = self._seconds * DECAY + max(seconds, 1e-9)
        self.tokens_per_second = self._tokens / self._seconds
