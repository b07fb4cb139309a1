"""The fast path and the framework over the service's own connections: the same answers, byte for byte."""

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.bundle.store import Store
from sparserve.service.app import ServiceApp, create_app
from sparserve.service.errors import Overloaded
from sparserve.service.inference.batcher import Batcher
from sparserve.service.server.connection import Connection
from sparserve.service.settings import Settings
from tests.support.service.raw_connections import exchange, serving
from tests.support.tiny_bundles import TASK, graph, publish

TEXT = {"inputs": "good film"}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES"}
PACKED = {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 8}}], "parameters": {"binary_data_output": True}}
QUERY = {"query": "good film", "texts": ["bad", "dull fun film"]}
DOCUMENTS = {"query": "good film", "documents": ["bad", "dull fun film"], "model": "search"}
# A good body of each route of the fast path.
ROUTES: dict[str, Any] = {
    f"/v1/models/{TASK}/classify": TEXT,
    f"/v1/models/{TASK}/sparse90/classify": TEXT,
    f"/hf/{TASK}": TEXT,
    f"/hf/{TASK}/dense": TEXT,
    f"/tei/{TASK}/predict": TEXT,
    f"/tei/{TASK}/dense/predict": TEXT,
    "/tei/search/rerank": QUERY,
    "/tei/search/dense/rerank": QUERY,
    "/v1/rerank": DOCUMENTS,
    "/v2/rerank": DOCUMENTS,
    "/v1/classify": {"input": "good film", "model": TASK},
    "/v1/moderations": {"input": "good film", "model": TASK},
    f"/v2/models/{TASK}/infer": {"inputs": [{**TENSOR, "data": ["good"]}]},
    f"/v2/models/{TASK}/versions/sparse90/infer": PACKED,
}
UNKNOWN = {**DOCUMENTS, "model": "none"}
SETTINGS: dict[str, Any] = {
    "threads": 1, "watch_seconds": 0, "max_body_bytes": 999, "moderation_safe_labels": {TASK: ["negative"]},
}  # fmt: skip


def request(path: str, content: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    head = [b"POST %s HTTP/%s" % (path.encode(), version), b"Host: x", b"X-Request-Id: mine", *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(content), b"", content])


def good(path: str, *headers: bytes, **more: Any) -> bytes:
    content, kind = json.dumps(ROUTES[path]).encode(), b"Content-Type: application/json"
    if ROUTES[path] is PACKED:
        kind = b"Inference-Header-Content-Length: %d" % len(content)
        content += b"\4\0\0\0good"
    return request(path, content, kind, *headers, **more)


def masked(content: bytes) -> bytes:
    """Return answers without their dates and times, and without lengths that depend on these."""
    content = re.sub(rb"(date: )[^\r]*", rb"\1masked", content)
    content = re.sub(rb"(dur=)[0-9.]+", rb"\1masked", content)
    content, times = re.subn(rb'(_seconds"|created"|"id"):("?)[-+.\w]+', rb"\1:\2masked", content)
    return re.sub(rb"(content-length: )[0-9]+", rb"\1masked", content) if times else content


def test_fast_path_sends_the_bytes_of_the_framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    publish(store, variant="dense")
    publish(store, variant="sparse90")
    problem: dict[str, Any] = {"labels": ("relevance",), "problem_type": "multi_label_classification", "inputs": "pair"}
    publish(store, "search", model=graph(1), **problem)
    written: list[int] = []
    respond = Connection.respond

    def recorded(connection: Connection, scope: Any, status: int, headers: Any, body: bytes) -> bool:
        written.append(status)
        return respond(connection, scope, status, headers, body)

    def refuse(*_: object, **__: object) -> None:
        raise Overloaded("too much waits", 7)

    monkeypatch.setattr(Connection, "respond", recorded)
    json_type, close = b"Content-Type: application/json", b"Connection: close"

    async def compare() -> None:
        async with contextlib.AsyncExitStack() as stack:
            apps, ports = [], []
            for fast_path in (True, False):
                app = create_app(Settings(store=store.root, **SETTINGS), fast_path=fast_path)
                await stack.enter_async_context(app.router.lifespan_context(app))
                ports.append(await stack.enter_async_context(serving(app, app.state.service.metrics)))
                await app.state.service.loaded()
                apps.append(app)
            assert isinstance(apps[0], ServiceApp) and apps[0].fast_path

            async def alike(statuses: list[int], *parts: bytes) -> None:
                """Send both the same, and expect the same answers, with these statuses."""
                fast, framework = [masked(await exchange(port, *parts)) for port in ports]
                assert fast == framework
                assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", fast)] == statuses
                assert fast.count(b"connection: close\r\n") == 1

            for path in ROUTES:
                assert apps[0].fast_path.find({"type": "http", "method": "POST", "path": path, "headers": []}), path
                late = good(path, b"X-Request-Timeout: 0.000001")
                bad = [request(path, content, json_type) for content in (b"{", b"{}")]
                await alike([200, 504, 400, 422, 200], good(path), late, *bad, good(path, close))
                await alike([200], good(path, version=b"1.0"))
                await alike([413], request(path, b"1" * 1000, json_type))
            await alike([404, 404], request("/v1/rerank", json.dumps(UNKNOWN).encode(), json_type),
                        request("/hf/none", json.dumps(TEXT).encode(), json_type, close))  # fmt: skip
            assert {200, 400, 404, 422, 504} <= set(written)
            with monkeypatch.context() as overloaded:
                overloaded.setattr(Batcher, "waiting", True)
                overloaded.setattr(Batcher, "check_load", refuse)
                for path in ROUTES:
                    await alike([429, 429], good(path), good(path, close))
            for app in apps:
                app.state.service.drain.begin()
            for path in ROUTES:
                await alike([200], good(path))
                await alike([400], request(path, b"{", json_type))
                await alike([413], request(path, b"1" * 1000, json_type))

    asyncio.run(compare())
