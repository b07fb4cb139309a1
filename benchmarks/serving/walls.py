"""Measure unusual pieces of the service: the garbage collector paused while JSON is parsed, and the fast path.

Run `python -m benchmarks.serving.walls --store store`; docs/explanation/server-walls.md explains the figures.
"""

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
from fastapi import FastAPI

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.http.json_body import parse_json
from sparserve.service.settings import Settings

REQUESTS: Final = 640
CLIENTS: Final = 32
REPEATS: Final = 7


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--variant", default="sparse90-int8", help="a fast one: its own time is subtracted")
    arguments = parser.parse_args()
    texts = json.dumps({"inputs": ["a warm, funny, engaging film"] * 60_000}).encode()
    brackets = b"[" + b"[]," * 700_000 + b"[]]"
    for name, content in (("2 MB of texts", texts), ("2 MB of brackets", brackets)):
        paused = best(lambda content=content: parse_json(content, orjson.loads))
        plain = best(lambda content=content: orjson.loads(content))
        print(f"parse {name}: {1000 * plain:.0f} ms with the collector, {1000 * paused:.0f} ms without")
    asyncio.run(measure_fast_path(arguments.store, arguments.variant))


def best(parse: Callable[[], Any]) -> float:
    """Return the shortest time of some calls, in seconds."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        started = time.perf_counter()
        parse()
        times.append(time.perf_counter() - started)
    return min(times)


async def measure_fast_path(store: Path, variant: str) -> None:
    """Print the processor time of a request on the event loop's thread, with the fast path and without, in turns."""
    (task,) = Store(store).tasks()
    path = f"/v1/models/{task}/{variant}/classify"
    apps = {
        name: create_app(Settings(store=store, threads=1, watch_seconds=0, port=0), fast_path=fast_path)
        for name, fast_path in (("FastAPI", False), ("the fast path", True))
    }
    seconds: dict[str, list[float]] = {name: [] for name in apps}
    for app in apps.values():
        app.state.service.start()
        await app.state.service.loaded()
    gc.collect()
    gc.freeze()
    try:
        for _ in range(REPEATS):
            for name, app in apps.items():
                began = time.thread_time()
                await asyncio.gather(*(client(app, path) for _ in range(CLIENTS)))
                seconds[name].append((time.thread_time() - began) / REQUESTS)
    finally:
        for app in apps.values():
            await app.state.service.stop()
    for name, values in seconds.items():
        print(f"one request on the event loop, without sockets, through {name}: {1e6 * median(values):.0f} us")


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
