"""Measure unusual pieces of the service, and the parts of a request on the fast path; print Markdown tables.

Run `python -m benchmarks.serving.walls --store store`; docs/explanation/server-walls.md explains the figures.
"""

import argparse
import asyncio
import gc
import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, Final

import orjson
from fastapi import FastAPI

from benchmarks.markdown_tables import table
from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.http.json_body import parse_json
from sparserve.service.settings import Settings

REQUESTS: Final = 640
CLIENTS: Final = 32
REPEATS: Final = 7
SAMPLE_SECONDS: Final = 0.001
# Parts of a request by module, or by the package that it is in; the innermost frame that has one counts.
PARTS: Final = {
    "sparserve.models.bundle.text_tokenizer": "tokenizer",
    "sparserve.service.inference.tokenizer_pool": "tokenizer",
    "sparserve.models.bundle": "model: padding, run, softmax",
    "sparserve.service.inference": "admission, queue, batches",
    "sparserve.service.core": "admission, queue, batches",
    "sparserve.service.observability": "log, metrics, request id",
    "sparserve.service.http": "HTTP: headers, JSON, limits",
    "sparserve.service.api": "HTTP: headers, JSON, limits",
    "sparserve.service": "other parts of the service",
    __name__: "client of this measurement",
    "__main__": "client of this measurement",
}
EVENT_LOOP: Final = ("asyncio", "selectors")
ELSEWHERE: Final = "event loop, and waiting for the model's thread"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--variant", default="sparse90-int8", help="a fast one: its own time is subtracted")
    arguments = parser.parse_args()
    texts = json.dumps({"inputs": ["a warm, funny, engaging film"] * 60_000}).encode()
    brackets = b"[" + b"[]," * 700_000 + b"[]]"
    rows = []
    for name, content in (("2 MB of texts", texts), ("2 MB of brackets", brackets)):
        paused = best(lambda content=content: parse_json(content, orjson.loads))
        plain = best(lambda content=content: orjson.loads(content))
        rows.append([f"garbage collector paused: {name}", f"{1000 * plain:.0f} ms", f"{1000 * paused:.0f} ms"])
    seconds, processor, samples = asyncio.run(measure_fast_path(arguments.store, arguments.variant))
    both = (f"{1e6 * seconds[name]:.0f} us" for name in (False, True))
    rows.append(["fast path: one request on the event loop, without sockets", *both])
    print(table(["piece", "without it", "with it"], rows))
    total = samples.total()
    shares = [[part, f"{100 * count / total:.0f} %"] for part, count in samples.most_common()]
    print(
        f"\nThe process takes {1e6 * processor:.0f} us of processor time for a request on the fast path, "
        f"{CLIENTS} at a time, without sockets; the main thread is, in {total} samples, at\n"
    )
    print(table(["part", "share"], shares))


def best(parse: Callable[[], Any]) -> float:
    """Return the shortest time of some calls, in seconds."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        started = time.perf_counter()
        parse()
        times.append(time.perf_counter() - started)
    return min(times)


async def measure_fast_path(store: Path, variant: str) -> tuple[dict[bool, float], float, Counter[str]]:
    """Return the processor seconds of a request, and samples of the main thread by `PARTS`.

    The seconds are those of the event loop's thread, with the fast path (True) and without, in turns, and those of all
    threads with it.
    """
    (task,) = Store(store).tasks()
    path = f"/v1/models/{task}/{variant}/classify"
    apps = {
        fast_path: create_app(Settings(store=store, threads=1, watch_seconds=0, port=0), fast_path=fast_path)
        for fast_path in (False, True)
    }
    seconds: dict[bool, list[float]] = {name: [] for name in apps}
    for app in apps.values():
        app.state.service.start()
        await app.state.service.loaded()
    gc.collect()
    gc.freeze()
    try:
        for _ in range(REPEATS):
            for name, app in apps.items():
                began = time.thread_time()
                await requests(app, path)
                seconds[name].append((time.thread_time() - began) / REQUESTS)
        began, samples = time.process_time(), Counter[str]()
        for _ in range(REPEATS):
            await requests(apps[True], path)
        processor = (time.process_time() - began) / REPEATS / REQUESTS
        signal.signal(signal.SIGPROF, lambda _, frame: samples.update([part_of(frame)]))
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        try:
            for _ in range(REPEATS):
                await requests(apps[True], path)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        for app in apps.values():
            await app.state.service.stop()
    return {name: median(values) for name, values in seconds.items()}, processor, samples


def part_of(frame: FrameType | None) -> str:
    """Return the part of a request that a frame of the main thread belongs to."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in EVENT_LOOP:
            break
        while module:
            if module in PARTS:
                return PARTS[module]
            module = module.rpartition(".")[0]
        frame = frame.f_back
    return ELSEWHERE


async def requests(app: FastAPI, path: str) -> None:
    """Send the requests of all clients."""
    await asyncio.gather(*(client(app, path) for _ in range(CLIENTS)))


async def client(app: FastAPI, path: str) -> None:
    """Send requests one after the other."""
    for _ in range(REQUESTS // CLIENTS):
        await asyncio.create_task(request(app, path))


async def request(app: FastAPI, path: str) -> None:
    """Send a request as uvicorn does."""
    content = json.dumps({"inputs": ["a warm, funny, engaging film"]}).encode()
    headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("x", 80),
        "client": ("x", 1), "asgi": {"version": "3.0"},
        "state": {"watch_disconnect": lambda callback: None, "body_received": bytearray(content)},
    }  # fmt: skip
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    assert messages[0]["status"] == 200, messages


if __name__ == "__main__":
    main()
