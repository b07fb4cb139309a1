"""Clients that disconnect while they wait: their inputs leave the queue and are never computed."""

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import NewApp
from tests.support.tiny_bundles import TASK

PATH = f"/v1/models/{TASK}/classify"
DEADLINE_SECONDS = 20


class Client:
    """One request to an app, whose client can disconnect."""

    def __init__(self, app: FastAPI, inputs: list[str], path: str = PATH, *, sends_body: bool = True) -> None:
        self.messages: list[dict[str, Any]] = []
        self._gone = asyncio.Event()
        content = json.dumps({"inputs": inputs} if inputs else {}).encode()
        self._body: bytes | None = content if sends_body else None
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "server": ("x", 1), "scheme": "http",
            "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        self.done = asyncio.create_task(app(scope, self._receive, self._send))

    def go(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None


class Slow:
    """Graph that waits until it may run, and records the number of inputs of each batch."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.batches: list[int] = []
        self.may_run = threading.Event()

    def __call__(self, feed: dict[str, np.ndarray]) -> Any:
        self.batches.append(len(feed["input_ids"]))
        assert self.may_run.wait(DEADLINE_SECONDS)
        return self._run(feed)


async def until(true: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not true():
            await asyncio.sleep(0.001)


def test_disconnect_removes_the_request_from_the_queue(
    store: Store, caplog: pytest.LogCaptureFixture, new_app: NewApp
) -> None:
    # Held up as they are, batches seem slow: no limit of time shall part them.
    app = new_app(store=store.root, watch_seconds=0, max_batch_seconds=100)
    service = app.state.service
    caplog.set_level("INFO", "sparserve.requests")

    def waiting() -> float:
        return service.metrics.registry.get_sample_value("sparserve_inputs_waiting")

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await service.loaded()
            classifier = service.catalog.engine(TASK).loaded.classifier
            classifier.run = slow = Slow(classifier.run)
            first = Client(app, ["good"])
            await until(lambda: slow.batches == [1])
            stays, goes = Client(app, ["bad"] * 2), Client(app, ["film"] * 7)
            await until(lambda: waiting() == 9)
            goes.go()
            await goes.done
            assert (goes.status, waiting()) == (None, 2)
            running = Client(app, ["good"])
            running.go()
            await running.done
            slow.may_run.set()
            await asyncio.gather(first.done, stays.done)
            assert (first.status, stays.status, slow.batches) == (200, 200, [1, 2])
            first.go()  # after its answer: nothing is left to end
            assert service.drain.dropped == 0

    asyncio.run(test())
    labels = {"method": "POST", "route": "/v1/models/{task}/classify", "status": "499"}
    assert service.metrics.registry.get_sample_value("sparserve_http_requests_total", labels) == 2
    assert "exception" not in caplog.text and "failed" not in caplog.text


def test_disconnect_while_the_batch_runs(store: Store, new_app: NewApp) -> None:
    app = new_app(store=store.root, watch_seconds=0)
    service = app.state.service

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await service.loaded()
            classifier = service.catalog.engine(TASK).loaded.classifier
            classifier.run = slow = Slow(classifier.run)
            goes = Client(app, ["good"])
            await until(lambda: slow.batches == [1])
            goes.go()
            await goes.done
            slow.may_run.set()
            after = Client(app, ["good"])
            await after.done
            assert (goes.status, after.status) == (None, 200)

    asyncio.run(test())


def test_disconnect_does_not_cancel_admin_requests(store: Store, new_app: NewApp) -> None:
    app = new_app(store=store.root, watch_seconds=0, admin_without_key=True)
    service = app.state.service

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await service.loaded()
            client = Client(app, [], f"/v2/repository/models/{TASK}/unload")
            client.go()
            await client.done
            assert client.status == 200

    asyncio.run(test())
    assert service.catalog.snapshot.unloaded


@pytest.mark.parametrize("seconds", [0.05])
def test_body_limit_late_body_is_408(store: Store, seconds: float, new_app: NewApp) -> None:
    app = new_app(store=store.root, watch_seconds=0, receive_timeout_seconds=seconds)

    async def test() -> None:
        client = Client(app, [], sends_body=False)
        await client.done
        assert client.status == 408
        headers = dict(client.messages[0]["headers"])
        assert (headers[b"connection"], headers[b"content-type"]) == (b"close", b"application/problem+json")

    asyncio.run(test())
