"""The fast path and the framework: the same answers, headers, metrics and log lines, over the service's connections."""

import asyncio
import gc
import gzip
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.service.app import ServiceApp, create_app
from sparserve.service.core import ServingCore
from sparserve.service.errors import Overloaded
from sparserve.service.http.middleware.disconnect import DisconnectScope
from sparserve.service.inference.batcher import Batcher
from sparserve.service.security.key_file import create
from sparserve.service.server.connection import Connection
from sparserve.service.settings import Settings
from tests.support.service.fixtures import ServiceOf
from tests.support.service.raw_connections import exchange, serving
from tests.support.tiny_bundles import TASK, graph, publish

CLASSIFY = f"/v1/models/{TASK}/classify"
JSON = {"Content-Type": "application/json", "X-Request-Id": "mine"}
PATHS = (CLASSIFY, f"/v1/models/{TASK}/sparse90/classify", f"/hf/{TASK}", f"/hf/{TASK}/dense", f"/tei/{TASK}/predict",
         f"/tei/{TASK}/dense/predict", "/predict", f"/v1/models/{TASK}/compare", f"{CLASSIFY}/")  # fmt: skip
BODIES: list[Any] = [
    {"inputs": "good film"}, {"inputs": ["good", "bad"]}, {"inputs": [{"text": "good", "text_pair": "bad"}]},
    {"inputs": "good", "top_k": None}, {"inputs": "good", "top_k": 0}, {"inputs": "good", "function_to_apply": "none"},
    {"inputs": "good " * 99, "truncate": False}, {"inputs": []}, {"inputs": ["good"] * 5}, {"inputs": "x" * 60},
    {"inputs": 5}, {"more": 1}, {}, [], None, "text", {"inputs": "good", "parameters": {"top_k": 1}},
    {"inputs": "\x00"}, {"inputs": ""},
]  # fmt: skip
CONTENTS = [*(json.dumps(body).encode() for body in BODIES), b"", b"{", b"\xff", b"[" * 9_999, b"1" * 200_000]
HEADERS: list[dict[str, str]] = [
    {"Content-Type": "text/plain"}, {"Content-Type": "application/vnd.x+json"}, {"X-Request-Timeout": "none"},
    {"X-Request-Timeout": "60"}, {"X-Routing-Key": "r" * 300}, {"X-Request-Id": "no good"}, {"Origin": "https://x.example"},
    {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, {"Expect": "100-continue"},
    {"Authorization": "Bearer nonsense"}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"},
]  # fmt: skip
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES"}
GOOD = {"inputs": [{**TENSOR, "data": ["good"]}]}
PACKED = {**TENSOR, "parameters": {"binary_data_size": 8}}
QUERY = {"query": "good film", "texts": ["bad", "dull fun film"]}
DOCUMENTS = {"query": "good film", "documents": ["bad", {"text": "dull fun film"}], "model": "search"}
# Requests of other protocols: path and body.
OTHERS: list[tuple[str, Any]] = [
    ("/classify", {"input": ["good", "bad"]}), ("/v1/classify", {"input": "good", "model": f"{TASK}/sparse90"}),
    ("/v1/classify", {"input": [5]}), ("/classify", {"input": ["good"] * 5}), ("/classify", {"input": "good " * 20}),
    ("/v1/moderations", {"input": ["good", "bad"], "model": TASK}), ("/v1/moderations", {"input": ["good"] * 5}),
    ("/v1/moderations", {"input": "good", "model": "none"}), ("/v1/moderations", {"input": []}),
    (f"/v2/models/{TASK}/versions/sparse90/infer", {**GOOD, "outputs": [{"name": "label"}]}),
    (f"/v2/models/{TASK}/infer", {**GOOD, "id": "mine"}), (f"/v2/models/{TASK}/infer", {"inputs": [PACKED]}),
    (f"/v2/models/{TASK}/infer", {"inputs": [{**TENSOR, "shape": [5], "data": ["good"] * 5}]}),
    (f"/v2/models/{TASK}/infer", {}), (f"/v2/models/{TASK}/infer/", GOOD), ("/v2/models/none/infer", GOOD),
    ("/v2/repository/index", {}),
]  # fmt: skip
RANKINGS: list[tuple[str, Any]] = [
    *((path, body) for path in ("/rerank", "/tei/search/rerank", "/tei/search/dense/rerank") for body in (
        QUERY, {**QUERY, "raw_scores": True, "return_text": True}, {**QUERY, "texts": []},
        {**QUERY, "texts": ["a"] * 5}, {**QUERY, "texts": ["good " * 20]}, {**QUERY, "texts": [1]},
        {**QUERY, "texts": ["x" * 50]}, {"query": ""}, {},
    )),
    *((path, body) for path in ("/v1/rerank", "/v2/rerank") for body in (
        DOCUMENTS, {**DOCUMENTS, "top_n": 1, "return_documents": True}, {**DOCUMENTS, "model": "search/dense"},
        {**DOCUMENTS, "model": "none"}, {**DOCUMENTS, "top_n": 0}, {**DOCUMENTS, "documents": ["a"] * 5}, {},
    )),
]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "watch_seconds": 0,
    "max_items": 4,
    "max_characters": 50,
    "max_body_bytes": 9_999,
    "moderation_safe_labels": {TASK: ["negative"]},
}


class Recorded(logging.Handler):
    """Fields of the lines that requests leave."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append({**vars(record)["fields"], "level": record.levelname, "message": bool(record.getMessage())})


@pytest.fixture(scope="module")
def both(module_store: Store) -> Iterator[tuple[TestClient, TestClient]]:
    """The service with its fast path, and without."""
    with served(module_store, fast_path=True) as fast, served(module_store, fast_path=False) as framework:
        yield fast, framework


@pytest.fixture(scope="module")
def rankers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, TestClient]]:
    """The same with a reranker alone."""
    store = Store(tmp_path_factory.mktemp("rankers") / "store")
    problem: dict[str, Any] = {"labels": ("relevance",), "problem_type": "multi_label_classification", "inputs": "pair"}
    publish(store, "search", model=graph(1), **problem)
    with served(store, fast_path=True) as fast, served(store, fast_path=False) as framework:
        yield fast, framework


def served(store: Store, *, fast_path: bool, **settings: Any) -> TestClient:
    class Loaded(TestClient):
        def __enter__(self) -> "Loaded":
            super().__enter__()
            assert self.portal and isinstance(self.app, FastAPI)
            self.portal.call(self.app.state.service.loaded)
            return self

    app = create_app(Settings(**{"store": store.root, **SETTINGS, **settings}), fast_path=fast_path)
    return Loaded(app, raise_server_exceptions=False)


def answer_of(client: TestClient, path: str, content: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """Everything that a request leaves, without what differs from one to the next."""
    logger, recorded = logging.getLogger("sparserve.requests"), Recorded()
    logger.addHandler(recorded)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        answer = client.post(path, content=content, headers=headers)
    finally:
        logger.removeHandler(recorded)
        logger.setLevel(level)
    text = re.sub(r'(_seconds"|latency_ratio"|seconds_per_item"|created"):[-+.e0-9]+', r"\1:0", answer.text)
    generated = answer.headers["x-request-id"] != headers.get("X-Request-Id")
    if generated:
        text = text.replace(answer.headers["x-request-id"], "generated")
    shown = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")}
    shown["server-timing"] = re.sub(r"[0-9.]+", "0", shown.get("server-timing", ""))
    (line,) = recorded.lines
    for name in ("milliseconds", "batch_wait_milliseconds", "bytes_out", *(["request_id"] if generated else [])):
        line.pop(name, None)
    return {"status": answer.status_code, "text": text, "headers": shown, "line": line}


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize("path", PATHS)
def test_fast_path_answers_as_the_framework(both: tuple[TestClient, TestClient], path: str, content: bytes) -> None:
    fast, framework = (answer_of(client, path, content, JSON) for client in both)
    assert fast == framework


@pytest.mark.parametrize(("path", "body"), OTHERS, ids=range(len(OTHERS)))
def test_fast_path_speaks_other_protocols_as_the_framework(
    both: tuple[TestClient, TestClient], path: str, body: Any
) -> None:
    content, headers = json.dumps(body).encode(), JSON
    if body.get("inputs") == [PACKED]:  # as Triton's client: binary, and of no declared type
        headers = {"X-Request-Id": "mine", "Inference-Header-Content-Length": str(len(content))}
        content += b"\4\0\0\0good"
    fast, framework = (answer_of(client, path, content, headers) for client in both)
    assert fast == framework


@pytest.mark.parametrize(("path", "body"), RANKINGS, ids=range(len(RANKINGS)))
def test_fast_path_ranks_as_the_framework(rankers: tuple[TestClient, TestClient], path: str, body: Any) -> None:
    fast, framework = (answer_of(client, path, json.dumps(body).encode(), JSON) for client in rankers)
    assert fast == framework


@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_fast_path_reads_headers_as_the_framework(both: tuple[TestClient, TestClient], headers: dict[str, str]) -> None:
    content = json.dumps({"inputs": "good"}).encode()
    packed = gzip.compress(content) if headers.get("Content-Encoding") == "gzip" else content
    fast, framework = (answer_of(client, CLASSIFY, packed, {**JSON, **headers}) for client in both)
    assert fast == framework


def test_fast_path_counts_as_the_framework(module_store: Store) -> None:
    counted = []
    for fast_path in (True, False):
        with served(module_store, fast_path=fast_path, max_batch_seconds=60) as client:  # one batch, however slow
            for path, content in ((CLASSIFY, CONTENTS[0]), (CLASSIFY, CONTENTS[1]), (f"/hf/{TASK}", b"{")):
                client.post(path, content=content, headers=JSON)
            lines = client.get("/metrics").text.splitlines()
        counters = (line for line in lines if re.match(r"sparserve_\w+(_total|_count)\b", line))
        counted.append([line for line in counters if "halved" not in line])
    assert counted[0] == counted[1]
    assert any('sparserve_inputs_total{task="' in line and line.endswith(" 3.0") for line in counted[0])


def test_fast_path_checks_keys_and_rates(module_store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    allowed = create(keys, "allowed", frozenset({"classify"}), rate=2)
    admin = create(keys, "admin", frozenset({"admin"}))
    seen = []
    for fast_path in (True, False):
        with served(module_store, fast_path=fast_path, keys_file=keys) as client:
            sent = [None, "sparserve_00000000_" + "x" * 43, admin, allowed, allowed, allowed]
            headers = [{**JSON, **({"Authorization": f"Bearer {key}"} if key else {})} for key in sent]
            seen.append([answer_of(client, CLASSIFY, CONTENTS[0], one) for one in headers])
            metrics = client.get("/metrics", headers={"X-Api-Key": allowed}).text
            assert "sparserve_requests_denied_total 3.0" in metrics
            assert "sparserve_requests_rate_limited_total 1.0" in metrics
    assert seen[0] == seen[1]
    assert [answer["status"] for answer in seen[0]] == [401, 401, 403, 200, 200, 429]
    assert seen[0][3]["line"]["key"] == "allowed"


def test_fast_path_reports_unexpected_errors_as_the_framework(
    both: tuple[TestClient, TestClient], service_of: ServiceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret text")

    for client in both:
        monkeypatch.setattr(service_of(client), "classify", fail)
    # The line of the failure has the frames, which differ.
    answers = [client.post(CLASSIFY, content=CONTENTS[0], headers=JSON) for client in both]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[0].json() == answers[1].json()
    assert "secret" not in answers[0].text


def test_fast_path_refuses_before_the_body_is_parsed(
    both: tuple[TestClient, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Batcher, content_bytes: int, **__: object) -> None:
        raise Overloaded(f"no room for {content_bytes} bytes", 7)

    monkeypatch.setattr(Batcher, "waiting", True)
    monkeypatch.setattr(Batcher, "check_load", refuse)
    for path in (CLASSIFY, f"/hf/{TASK}", f"/v2/models/{TASK}/infer", "/v1/moderations", f"{CLASSIFY}/"):
        fast, framework = (answer_of(client, path, b"{", JSON) for client in both)
        assert fast == framework
        assert (fast["status"], fast["headers"]["retry-after"], fast["line"]["bytes_in"]) == (429, "7", 1)
        assert "no room for 1 bytes" in fast["text"]
    for path, headers, status in ((CLASSIFY, {"X-Request-Timeout": "none"}, 422), ("/v2/repository/index", {}, 200)):
        answers = [answer_of(client, path, CONTENTS[0], {**JSON, **headers}) for client in both]
        assert [answer["status"] for answer in answers] == [status, status]


def scope_of(path: str, *headers: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": list(headers)}


def test_fast_path_finds_what_is_served(store: Store) -> None:
    with served(store, fast_path=True) as client:
        assert isinstance(client.app, ServiceApp) and client.app.fast_path
        find, core = client.app.fast_path.find, client.app.state.service
        assert isinstance(core, ServingCore)
        others = [path for path, _ in OTHERS if path.endswith(f"{TASK}/infer") or "models" not in path]
        for path in [*PATHS[:-1], "/rerank", "/v1/rerank", f"/tei/{TASK}/rerank", *others]:
            assert find(scope_of(path)), path
        for path in (PATHS[-1], f"/v1/models/{TASK}", "/v1/models/none/classify", f"{CLASSIFY}\n", "/"):
            assert find(scope_of(path)) is None, path
        assert find(scope_of(CLASSIFY, method="GET")) is None
        assert find(scope_of(f"/prefix{CLASSIFY}") | {"root_path": "/prefix"})
        for name in (b"origin", b"expect", b"content-encoding", b"transfer-encoding"):
            assert find(scope_of(CLASSIFY, (name, b"x"))) is None, name
        core.catalog.unload(TASK, "sparse90")
        assert find(scope_of(PATHS[1])) is None
        assert client.post(PATHS[1], json={"inputs": "good"}).status_code == 503
        core.catalog.load(TASK, "sparse90")
        assert find(scope_of(PATHS[1]))


Test = Callable[[int, ServingCore], Any]


def over_connections(store: Store, test: Test) -> None:
    app = create_app(Settings(store=store.root, **SETTINGS))
    core: ServingCore = app.state.service

    async def main() -> None:
        async with app.router.lifespan_context(app), serving(app, core.metrics) as port:
            await core.loaded()
            await test(port, core)

    asyncio.run(main())


def raw_request(content: bytes = CONTENTS[0], *headers: bytes, version: bytes = b"1.1") -> bytes:
    head = [b"POST %s HTTP/%s" % (CLASSIFY.encode(), version), b"Host: x", b"Content-Type: application/json", *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(content), b"", content])


def test_fast_path_keeps_connections_and_answers_in_order(module_store: Store) -> None:
    async def test(port: int, core: ServingCore) -> None:
        ids = [b"X-Request-Id: %d" % number for number in range(3)]
        first, second = (raw_request(CONTENTS[0], one) for one in ids[:2])
        closing = raw_request(CONTENTS[0], ids[2], b"Connection: close")
        for parts in ((first + second + closing,), (first[:9], first[9:-3], first[-3:] + second, closing)):
            content = await exchange(port, *parts)
            assert content.count(b"HTTP/1.1 200 OK\r\n") == 3
            assert re.findall(rb"x-request-id: (\d)", content) == [b"0", b"1", b"2"]
            assert content.count(b"connection: close") == 1
        content = await exchange(port, raw_request(version=b"1.0"))
        assert content.count(b"connection: close") == 1 and content.endswith(b"}")

    over_connections(module_store, test)


def test_fast_path_refuses_with_one_write(module_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    respond = Connection.respond

    def recorded(connection: Connection, scope: Any, status: int, headers: Any, body: bytes) -> bool:
        written.append(status)
        return respond(connection, scope, status, headers, body)

    monkeypatch.setattr(Connection, "respond", recorded)

    async def test(port: int, core: ServingCore) -> None:
        content = await exchange(port, raw_request(b"{"), raw_request(CONTENTS[0], b"Connection: close"))
        assert re.findall(rb"HTTP/1.1 (\d+) ", content) == [b"400", b"200"]
        assert content.count(b"cache-control: no-store\r\n") == 2

    over_connections(module_store, test)
    assert written == [400, 200]


def test_fast_path_leaves_nothing_to_the_garbage_collector(module_store: Store) -> None:
    async def test(port: int, core: ServingCore) -> None:
        closing = raw_request(CONTENTS[0], b"Connection: close")
        await exchange(port, raw_request(), closing)
        left = []
        for requests in (5, 25):
            gc.collect()
            gc.disable()
            try:
                await exchange(port, *[raw_request()] * requests, closing)
                left.append(gc.collect())
            finally:
                gc.enable()
        assert left[1] - left[0] < 20, "each request leaves a reference cycle"

    over_connections(module_store, test)


def test_fast_path_closes_connections_while_draining(module_store: Store) -> None:
    async def test(port: int, core: ServingCore) -> None:
        core.drain.begin()
        for body, status in ((CONTENTS[0], b"200"), (b"1" * 10_000, b"413")):
            content = await exchange(port, raw_request(body))
            assert content.startswith(b"HTTP/1.1 %s " % status) and content.count(b"connection: close") == 1

    over_connections(module_store, test)


def test_fast_path_cancels_a_request_whose_client_disconnects(
    module_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[DisconnectScope] = []
    wait = DisconnectScope._cancel_on_disconnect

    async def recorded(scope: DisconnectScope) -> None:
        tasks.append(scope)
        await wait(scope)

    monkeypatch.setattr(DisconnectScope, "_cancel_on_disconnect", recorded)

    async def test(port: int, core: ServingCore) -> None:
        classifier = core.catalog.engine(TASK).loaded.classifier
        run, may_run, batches = classifier.run, threading.Event(), []

        def held(inputs: dict[str, Any]) -> Any:
            batches.append(len(inputs["input_ids"]))
            may_run.wait(10)
            return run(inputs)

        classifier.run = held  # type: ignore[method-assign]
        waiting = core.metrics.registry
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for number, (_, writer) in enumerate(connections):
            writer.write(raw_request())
            while len(batches) < 1 or waiting.get_sample_value("sparserve_inputs_waiting") != number:
                await asyncio.sleep(0.001)
        connections[1][1].transport.abort()
        while waiting.get_sample_value("sparserve_inputs_waiting"):
            await asyncio.sleep(0.001)
        may_run.set()
        assert (await connections[0][0].readline()).startswith(b"HTTP/1.1 200")
        connections[0][1].close()
        assert batches == [1]
        assert not tasks, "the connection watches for a disconnect; a task for each request costs more"

    over_connections(module_store, test)
