"""Clients that count accepted requests and answers, and probes that record their longest wait."""

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.loopback import http_connection
from benchmarks.service_process import wait_until

PROBE_SECONDS = 0.02


@dataclass
class Counts:
    """Counts of requests: `refused` before the connection was made, `lost` after it and without an answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Number of requests with any answer."""
        return self.statuses.total()

    def figures(self) -> dict[str, Any]:
        """Return the counts for a record. `accepted` counts the requests that the service accepted."""
        return {
            "accepted": self.answered + self.lost,
            "answered": self.answered,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "refused": self.refused,
            "lost": self.lost,
            "lost_to": dict(self.reasons),
            "longest_answer_seconds": self.longest_seconds,
        }


@contextlib.contextmanager
def counting_clients(port: int, path: str, inputs: list[str], *, clients: int) -> Iterator[Counts]:
    """Send requests without pause, each on a new connection, until the context ends. A refused client stops."""
    counts, changing, ended = Counts(), threading.Lock(), threading.Event()
    body, headers = json.dumps({"inputs": inputs}), {"Content-Type": "application/json"}

    def ask() -> None:
        while not ended.is_set():
            began = time.monotonic()
            with http_connection(port) as connection:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    with changing:
                        counts.refused += 1
                    return
                try:
                    connection.request("POST", path, body, headers)
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException) as error:
                    with changing:
                        counts.lost += 1
                        counts.reasons[type(error).__name__] += 1
                    continue
                with changing:
                    counts.statuses[answer.status] += 1
                    counts.longest_seconds = max(counts.longest_seconds, time.monotonic() - began)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            yield counts
        finally:
            ended.set()
            for client in asking:
                client.result()


def wait_for_answers(counts: Counts, more: int) -> None:
    """Wait for `more` further answers."""
    target = counts.answered + more
    wait_until(lambda: counts.answered >= target, f"{more} more answers")


@dataclass
class ProbeCounts:
    """Counts of a probe: `failed` counts missing answers and answers other than 200."""

    asked: int = 0
    failed: int = 0
    longest_seconds: float = 0.0


@contextlib.contextmanager
def probing(port: int, path: str = "/livez") -> Iterator[ProbeCounts]:
    """Probe the service every few milliseconds, each time on a new connection, until the context ends."""
    counts, ended = ProbeCounts(), threading.Event()

    def probe() -> None:
        while not ended.wait(PROBE_SECONDS):
            began, counts.asked = time.monotonic(), counts.asked + 1
            with http_connection(port) as connection:
                try:
                    connection.request("GET", path)
                    counts.failed += connection.getresponse().status != 200
                except (OSError, http.client.HTTPException):
                    counts.failed += 1
            counts.longest_seconds = max(counts.longest_seconds, time.monotonic() - began)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()
