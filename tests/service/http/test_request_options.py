"""A request's deadline counts from the arrival of its head, not of its body."""

import asyncio
import time
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.drain import Drain
from sparserve.service.http.request_options import read_request_options
from sparserve.service.settings import Settings
from sparserve.service.types import RequestOptions
from tests.support.service.fixtures import NewApp
from tests.support.tiny_bundles import TASK


def request(arrived: float, timeout: str, **settings: Any) -> Request:
    app = create_app(Settings(threads=1, **settings), Drain())
    headers = [(b"x-request-timeout", timeout.encode())]
    return Request({"type": "http", "headers": headers, "app": app, "state": {"arrived": arrived}})


def test_request_options_deadline_counts_from_arrival() -> None:
    arrived = time.perf_counter() - 100
    for settings, deadline in (({}, 30), ({"request_timeout_seconds": 20}, 20), ({"request_timeout_seconds": 40}, 30)):
        caller = asyncio.run(read_request_options(request(arrived, "30", **settings)))
        assert caller.deadline == arrived + deadline
    assert caller.within(10).deadline == arrived + 10
    assert caller.within(50).deadline == arrived + 30


def test_request_options_arrive_now_by_default() -> None:
    before = time.perf_counter()
    assert before <= RequestOptions().arrived <= time.perf_counter()


@pytest.mark.parametrize(("seconds", "status"), [("0.02", 504), ("20", 200)])
def test_request_options_deadline_includes_the_body(store: Store, seconds: str, status: int, new_app: NewApp) -> None:
    app = new_app(store=store.root, watch_seconds=0)
    path = f"/v1/models/{TASK}/classify"
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await app.state.service.loaded()
            body = asyncio.Queue[Message]()
            began = time.perf_counter()
            headers = [(b"content-type", b"application/json"), (b"x-request-timeout", seconds.encode())]
            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
            running = asyncio.create_task(app(scope, body.get, send))
            while time.perf_counter() < began + 0.05:
                await asyncio.sleep(0)
            body.put_nowait({"type": "http.request", "body": b'{"inputs": "good"}', "more_body": False})
            await running

    asyncio.run(test())
    assert sent[0]["status"] == status
    runs = app.state.service.metrics.registry.get_sample_value(
        "sparserve_batches_total", {"task": TASK, "variant": "dense"}
    )
    assert bool(runs) == (status == 200)
