"""Load generator process with open and closed loops.

Reads a JSON object from stdin and writes one to stdout. In an open loop requests arrive as a Poisson process, whether
or not earlier ones were answered. The latency of a request counts from the moment it was due, so that a late generator
makes a server look worse, never better. In a closed loop each client waits for an answer before its next request.
"""

import asyncio
import gc
import json
import math
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from benchmarks.serving.load.connection import ConnectionPool
from benchmarks.serving.load.texts import poisson_arrivals
from benchmarks.serving.server_process import cpu_seconds


@dataclass(frozen=True)
class Load:
    """A load: `bodies` in turn to `url`, at `rate` per second for `seconds`, or from `clients` clients without a rate.

    A client gives up after `patience` seconds. With `server`, a process id, the CPU time of that process is measured.
    """

    url: str
    bodies: list[str]
    seconds: float
    rate: float | None = None
    clients: int = 1
    patience: float = 10.0
    headers: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    server: int | None = None


@dataclass
class Outcome:
    """One entry per request: due time in seconds from the start, latency from the due time, and HTTP status.

    Status 0 means that the client gave up, -1 that the connection broke. `lag` is the delay of the generator,
    `processor` the fraction of a CPU that the generator used, `server_seconds` the CPU time of the server and its
    children from the first request to the last answer.
    """

    due: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    processor: float = math.nan
    server_seconds: float | None = None


async def generate(load: Load) -> Outcome:
    """Send the load and wait for the last answer or the last client to give up."""
    outcome = Outcome()
    pool = ConnectionPool(load.url)
    headers = {"Content-Type": "application/json", **load.headers}
    requests = [pool.request(body, headers) for body in load.bodies]

    async def ask(number: int, due: float) -> None:
        outcome.lag.append(time.perf_counter() - due)
        status = await pool.ask(requests[number % len(requests)], load.patience)
        outcome.due.append(due - began)
        outcome.latency.append(time.perf_counter() - due)
        outcome.status.append(status)

    async def client(number: int) -> None:
        while (now := time.perf_counter()) < began + load.seconds:
            await ask(number, now)
            number += load.clients

    server_begun = cpu_seconds(load.server) if load.server else 0.0
    begun_cpu, began = time.process_time(), time.perf_counter()
    if load.rate is None:
        await asyncio.gather(*(client(number) for number in range(load.clients)))
    else:
        tasks = []
        for number, due in enumerate(poisson_arrivals(load.rate, load.seconds, load.seed).tolist()):
            await asyncio.sleep(began + due - time.perf_counter())
            tasks.append(asyncio.create_task(ask(number, began + due)))
        await asyncio.sleep(began + load.seconds - time.perf_counter())
    outcome.processor = (time.process_time() - begun_cpu) / (time.perf_counter() - began)
    if load.rate is not None:
        await asyncio.gather(*tasks)
    if load.server:
        outcome.server_seconds = cpu_seconds(load.server) - server_begun
    pool.close()
    return outcome


def main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    # Every request that waits for an overloaded server has its connection.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    gc.disable()  # a pause of the generator would count as latency of the server
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(generate(Load(**request)))
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
