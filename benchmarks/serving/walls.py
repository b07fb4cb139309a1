"""Measure two unusual pieces of the service: the garbage collector paused while JSON is parsed, and `DirectRoute`.

Run `python -m benchmarks.serving.walls`; docs/explanation/server-walls.md explains the figures.
"""

import asyncio
import gc
import json
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute

from sparserve.service.api.schemas import ClassifyAnswer, ClassifyRequest
from sparserve.service.http.json_body import parse_json
from sparserve.service.http.json_route import DirectRoute, JsonAnswer
from sparserve.service.types import ModelRef, Prediction, Timings, Usage

REQUESTS = 2000
REPEATS = 5
ANSWER = ClassifyAnswer(
    model=ModelRef(task="t", variant="v", version="1"),
    predictions=[[Prediction(label="good", score=0.9)]],
    usage=[Usage(tokens=7, truncated=False)],
    timings=Timings(queue_seconds=0, tokenize_seconds=0, inference_seconds=0, total_seconds=0),
)


def main() -> None:
    """Print the figures."""
    texts = json.dumps({"inputs": ["a warm, funny, engaging film"] * 60_000}).encode()
    brackets = b"[" + b"[]," * 700_000 + b"[]]"
    for name, content in (("2 MB of texts", texts), ("2 MB of brackets", brackets)):
        paused = best(lambda content=content: parse_json(content, orjson.loads))
        plain = best(lambda content=content: orjson.loads(content))
        print(f"parse {name}: {1000 * plain:.0f} ms with the collector, {1000 * paused:.0f} ms without")
    for name, route in (("FastAPI's dispatch", APIRoute), ("DirectRoute", DirectRoute)):
        print(f"one request in process, {name}: {1e6 * asyncio.run(request_seconds(route)):.0f} us")


def best(parse: Callable[[], Any]) -> float:
    """Return the shortest time of some calls, in seconds."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        started = time.perf_counter()
        parse()
        times.append(time.perf_counter() - started)
    return min(times)


async def request_seconds(route: type[APIRoute]) -> float:
    """Return the median time of a request to an endpoint that does nothing, called without a socket."""
    app = FastAPI()
    app.router.route_class = route
    app.state.service = SimpleNamespace(settings=SimpleNamespace(max_items=256))

    async def dependency(request: Request) -> str | None:
        return request.headers.get("x-routing-key")

    @app.post("/v1/models/{task}/classify", response_model=ClassifyAnswer)
    async def classify(task: str, body: ClassifyRequest, key: Annotated[str | None, Depends(dependency)]) -> Any:
        return JsonAnswer(orjson.dumps(ANSWER), ANSWER.timings) if issubclass(route, DirectRoute) else ANSWER

    content = json.dumps({"inputs": "a warm, funny, engaging film"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    status: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    times = []
    for _ in range(REQUESTS):
        scope = {
            "type": "http", "method": "POST", "path": "/v1/models/t/classify", "raw_path": b"/v1/models/t/classify",
            "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "",
            "server": ("x", 80), "client": ("x", 1),
        }  # fmt: skip
        started = time.perf_counter()
        await app(scope, receive, send)
        times.append(time.perf_counter() - started)
    assert set(status) == {200}
    return median(times)


if __name__ == "__main__":
    main()
