"""A bounded number of inferences at once, a bounded queue before them, and a refusal beyond that."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from service.errors import Overloaded
from service.metrics import Metrics

Result = TypeVar("Result")
SMOOTHING = 0.1


class InferenceQueue:
    """Runs work on threads, off the event loop; a request that was given up leaves the queue."""

    def __init__(self, *, concurrency: int, max_waiting: int, metrics: Metrics) -> None:
        self.concurrency = concurrency
        self.max_waiting = max_waiting
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="inference")
        self._metrics = metrics
        self._lock = threading.Lock()
        self._admitted = 0
        self._mean_seconds = 0.0

    async def run(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """What `work` returns, and the seconds that it waited for its turn.

        Raises:
            Overloaded: every place in the queue is taken; says after how many seconds one should be free.
        """
        arrived = time.perf_counter()
        self._admit()

        def timed() -> tuple[Result, float]:
            started = time.perf_counter()
            self._metrics.waiting.dec()
            self._metrics.running.inc()
            try:
                return work(), started - arrived
            finally:
                self._metrics.running.dec()
                self._learn(time.perf_counter() - started)

        future = self._executor.submit(timed)
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Stop taking work; what runs goes on to its end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _admit(self) -> None:
        with self._lock:
            if self._admitted >= self.concurrency + self.max_waiting:
                self._metrics.shed.inc()
                # The mean wait of the last in the queue; at least a second, the header's unit.
                seconds = max(math.ceil(self._mean_seconds * self._admitted / self.concurrency), 1)
                raise Overloaded(
                    f"{self.concurrency} inferences are running and {self.max_waiting} requests are waiting: "
                    f"try again in {seconds} s",
                    seconds,
                )
            self._admitted += 1
        self._metrics.waiting.inc()

    def _release(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._metrics.waiting.dec()
        with self._lock:
            self._admitted -= 1

    def _learn(self, seconds: float) -> None:
        with self._lock:
            self._mean_seconds += (seconds - self._mean_seconds) * (SMOOTHING if self._mean_seconds else 1)
