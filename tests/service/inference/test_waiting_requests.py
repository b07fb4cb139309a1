"""HTTP answers while all threads are busy: a full queue, and exceeded deadlines."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from sparserve.service.core import ServingCore
from sparserve.service.inference.batcher import Batcher
from tests.support.service.fake_engine import FakeEngine, inputs
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"


@contextlib.contextmanager
def busy(client: TestClient, batcher: Batcher) -> Iterator[FakeEngine]:
    """While the block runs, the service's only thread runs a batch of this engine."""
    engine = FakeEngine()
    engine.gate.clear()
    assert client.portal
    running = client.portal.start_task_soon(batcher.run, engine, inputs(3))  # type: ignore[call-arg]
    engine.begun.acquire(timeout=10)
    try:
        yield engine
    finally:
        engine.gate.set()
    running.result(timeout=10)


@contextlib.contextmanager
def one_waits(client: TestClient, service: ServingCore) -> Iterator[None]:
    """While the block runs, an input waits for the service's only thread."""
    with busy(client, service.batcher) as engine:
        assert client.portal
        waiting = client.portal.start_task_soon(service.batcher.run, engine, inputs(3))  # type: ignore[call-arg]
        while waiting_inputs(service) == 0:
            pass
        yield
    waiting.result(timeout=10)


def waiting_inputs(service: ServingCore) -> float | None:
    return service.metrics.registry.get_sample_value("sparserve_inputs_waiting")


def test_full_queue_is_429(serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]) -> None:
    client: TestClient = serve(max_waiting_inputs=0)
    service = service_of(client)
    with one_waits(client, service):
        answer = client.post(URL, json={"inputs": "good"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
        late = client.post(URL, json={"inputs": "good"}, headers={"X-Request-Timeout": "0.01"})
        assert late.status_code == 429
        assert client.get("/readyz").status_code == 200
        assert 'sparserve_requests_shed_total{reason="inputs"} 2.0' in client.get("/metrics").text
    assert client.post(URL, json={"inputs": "good"}).status_code == 200


def test_windows_beyond_the_waiting_inputs_are_429(
    serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client: TestClient = serve(max_waiting_inputs=5)
    body = {"inputs": "good film the bad a dull was fun " * 7, "overlong": "windows", "stride": 4}  # 6 windows
    # An empty queue accepts any request.
    with one_waits(client, service_of(client)):
        answer = client.post(URL, json=body)
        assert (answer.status_code, "1 inputs with 3 tokens" in answer.json()["detail"]) == (429, True)
        assert 'sparserve_requests_shed_total{reason="inputs"} 1.0' in client.get("/metrics").text
    answer = client.post(URL, json=body)
    assert (answer.status_code, answer.json()["usage"][0]["windows"]) == (200, 6)


def test_request_timeout_header(
    serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client: TestClient = serve()
    with busy(client, service_of(client).batcher):
        late = client.post(URL, json={"inputs": "good"}, headers={"X-Request-Timeout": "0.02"})
        assert late.status_code == 504
        assert "Deadline exceeded" in late.json()["detail"]
    assert client.post(URL, json={"inputs": "good"}, headers={"X-Request-Timeout": "30"}).status_code == 200


@pytest.mark.parametrize("sent", ["0", "-1", "soon", "nan", "inf", ""])
def test_request_timeout_header_invalid(module_client: TestClient, sent: str) -> None:
    answer = module_client.post(URL, json={"inputs": "good"}, headers={"X-Request-Timeout": sent})
    assert answer.status_code == 422
    assert "X-Request-Timeout" in answer.json()["detail"]


def test_request_timeout_setting(
    serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client: TestClient = serve(request_timeout_seconds=0.02)
    with busy(client, service_of(client).batcher):
        assert client.post(URL, json={"inputs": "good"}, headers={"X-Request-Timeout": "60"}).status_code == 504
