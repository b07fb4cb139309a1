"""Soak test: many requests of mixed lengths over a few connections, with samples of the service's resources."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import uvloop
from scipy import stats

from benchmarks.loopback import DEADLINE_SECONDS, json_request
from benchmarks.service_process import RunningService

SAMPLES = 200
DISTINCT = 4096
LONGEST_WORDS = 250
CONFIDENCE = 0.95
# Per thousand requests: invalid JSON, unknown model, client that disconnects before the answer.
UNREADABLE, UNKNOWN, ABANDONED = 10, 5, 1
# Requests per connection before it is replaced.
LIFETIME = 1000
HELD = ("rss_bytes", "pss_bytes", "private_bytes", "descriptors", "threads")
SLOWEST_A_SECOND = 20
WORDS = ("the", "a", "of", "film", "good", "bad", "fun", "dull", "was", "not", "7", "naïve", "😀", "cinématographie")


@dataclass(frozen=True)
class Sample:
    """Resources of all processes of the service together, after `requests` answers.

    Memory that processes share counts once in `pss_bytes`, and for each of them in `rss_bytes`.
    """

    requests: int
    seconds: float
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    """Result of a soak. `wrong` counts answers with an unexpected status or label, `restarts` workers that died."""

    requests: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    abandoned: int = 0
    restarts: int = 0
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class _Request:
    content: bytes
    status: int
    body_has: bytes = b""
    abandon: bool = False


class _Client(asyncio.Protocol):
    """A connection that sends the next request as soon as the last one is answered."""

    def __init__(
        self, next_request: Callable[[], _Request | None], record: Callable[[_Request, int, bytes], None]
    ) -> None:
        self._next_request = next_request
        self._record = record
        self._received = bytearray()
        self._request: _Request | None = None
        self._left = LIFETIME
        self.ended: asyncio.Future[_Request | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        assert self._request
        self._received.clear()
        request, self._request = self._request, None
        self._record(request, int(head[9:12]), rest)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Set `ended` to the unanswered request, if any."""
        if not self.ended.done():
            self.ended.set_result(self._request)

    def _send(self) -> None:
        self._left -= 1
        self._request = self._next_request() if self._left >= 0 else None
        if self._request is None:
            self._transport.close()
            return
        self._transport.write(self._request.content)
        if self._request.abandon:
            self._transport.close()


def soak(
    service: RunningService, path: str, requests: int, *, connections: int = 32, distinct: int = DISTINCT, seed: int = 0
) -> Soak:
    """Send `requests` requests and sample the processes `SAMPLES` times meanwhile.

    Raises:
        TimeoutError: the soak takes far longer than expected.
    """
    result = Soak()
    choices = _requests(service, path, distinct, seed)
    order = random.Random(seed)
    every = max(requests // SAMPLES, 1)
    sent, began = 0, time.monotonic()

    def next_request() -> _Request | None:
        nonlocal sent
        if sent >= requests:
            return None
        sent += 1
        return order.choice(choices)

    def record(request: _Request, status: int, body: bytes) -> None:
        result.requests += 1
        result.statuses[status] += 1
        result.wrong += status != request.status or request.body_has not in body
        if result.requests % every == 0:
            result.samples.append(_sample(service, result.requests, time.monotonic() - began))

    async def reconnect() -> None:
        loop = asyncio.get_running_loop()
        while sent < requests:
            _, client = await loop.create_connection(lambda: _Client(next_request, record), "127.0.0.1", service.port)
            unanswered = await client.ended
            result.abandoned += unanswered is not None and unanswered.abandon
            result.lost += unanswered is not None and not unanswered.abandon

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS + requests / SLOWEST_A_SECOND), asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(reconnect())

    uvloop.run(main())
    result.seconds = time.monotonic() - began
    result.restarts = int(service.metric("sparserve_worker_restarts_total"))
    return result


def slope(samples: list[Sample], name: str) -> dict[str, float]:
    """Return the growth of a figure per 100,000 requests, by a straight line through the second half of the samples.

    Neighbouring samples are correlated, so the interval is slightly too narrow.
    """
    half = samples[len(samples) // 2 :]
    x, y = [sample.requests for sample in half], [getattr(sample, name) for sample in half]
    if len(set(y)) == 1:
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    line = stats.linregress(x, y)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(half) - 2) * line.stderr)
    value = float(line.slope)
    return {"value": 1e5 * value, "low": 1e5 * (value - margin), "high": 1e5 * (value + margin)}


def figures(result: Soak) -> dict[str, Any]:
    """Return the figures for a record."""
    return {
        "requests": result.requests,
        "seconds": result.seconds,
        "requests_per_second": result.requests / result.seconds,
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "wrong": result.wrong,
        "lost": result.lost,
        "abandoned": result.abandoned,
        "restarts": result.restarts,
        "growth_per_100000": {name: slope(result.samples, name) for name in HELD},
        "samples": [asdict(sample) for sample in result.samples],
    }


def _sample(service: RunningService, requests: int, seconds: float) -> Sample:
    sums: Counter[str] = Counter()
    for process in service.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended
            memory = process.memory_full_info()
            pss = getattr(memory, "pss", memory.rss)  # some systems have no PSS
            sums.update(rss_bytes=memory.rss, pss_bytes=pss, private_bytes=memory.uss)
            sums.update(descriptors=process.num_fds(), threads=process.num_threads())
    return Sample(requests, seconds, **sums)


def _requests(service: RunningService, path: str, distinct: int, seed: int) -> list[_Request]:
    """Return requests of one or a few texts of log-normal lengths, each with the expected label."""
    choice = random.Random(seed)
    requests = []
    for _ in range(distinct):
        count = 1 if choice.random() < 0.95 else choice.randint(2, 8)
        inputs = [_text(choice) for _ in range(count)]
        body = json.dumps({"inputs": inputs}).encode()
        _, answer = service.ask(path, "POST", {"inputs": inputs})
        label = answer["predictions"][0][0]["label"]
        requests.append(_Request(json_request(path, body), 200, b'"predictions":[[{"label":"%s"' % label.encode()))
        fate = choice.random() * 1000
        if fate < UNREADABLE:
            requests.append(_Request(json_request(path, body[:-2]), 400))
        elif fate < UNREADABLE + UNKNOWN:
            requests.append(_Request(json_request(f"/v1/models/missing-{choice.random()}/classify", body), 404))
        elif fate < UNREADABLE + UNKNOWN + ABANDONED:
            requests.append(_Request(json_request(path, body), 0, abandon=True))
    return requests


def _text(choice: random.Random) -> str:
    words = min(max(round(choice.lognormvariate(3, 1)), 1), LONGEST_WORDS)
    return " ".join(choice.choice(WORDS) for _ in range(words))
