"""Clients that count: every request that a service took and every answer that came, and how long a probe waited."""

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
    """Requests of the clients so far: `refused` before a connection was made, `lost` after that and never answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Requests that any answer came for."""
        return self.statuses.total()

    def figures(self) -> dict[str, Any]:
        """For a record: `accepted` is what the service took."""
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
    """Ask without a pause until the block ends, each request on a connection of its own; a client ends once refused."""
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
            for one in asking:
                one.result()


def wait_for_answers(counts: Counts, more: int) -> None:
    """Wait until so many more answers have come."""
    wanted = counts.answered + more
    wait_until(lambda: counts.answered >= wanted, f"{more} more answers")


@dataclass
class Probed:
    """What a probe has met: `failed` counts the times that it got no answer, or another than 200."""

    asked: int = 0
    failed: int = 0
    longest_seconds: float = 0.0


@contextlib.contextmanager
def probing(port: int, path: str = "/livez") -> Iterator[Probed]:
    """Ask as a probe does, every few milliseconds on a connection of its own, until the block ends."""
    found, ended = Probed(), threading.Event()

    def probe() -> None:
        while not ended.wait(PROBE_SECONDS):
            began, found.asked = time.monotonic(), found.asked + 1
            with http_connection(port) as connection:
                try:
                    connection.request("GET", path)
                    found.failed += connection.getresponse().status != 200
                except (OSError, http.client.HTTPException):
                    found.failed += 1
            found.longest_seconds = max(found.longest_seconds, time.monotonic() - began)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
