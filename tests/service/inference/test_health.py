"""Failing engines and their reload, and batches that do not fit in memory."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from benchmarks.service_process import wait_until
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.service.catalog import catalog
from sparserve.service.core import ServingCore
from sparserve.service.inference.health import (
    FAILURES_IN_ROW,
    MAX_POLLS_BETWEEN_RELOADS,
    EngineHealth,
    is_out_of_memory,
    run_within_memory,
)
from tests.support.tiny_bundles import TASK, hungry, publish

URL = f"/v1/models/{TASK}/hungry/classify"
LABELS = f'{{task="{TASK}",variant="hungry"}}'


@pytest.fixture
def client(store: Store, serve: Any) -> TestClient:
    """A service whose default variant takes two inputs at once with difficulty, and never three."""
    publish(store, variant="hungry", model=hungry())
    store.set_default_variant(TASK, "hungry")
    started: TestClient = serve(watch_seconds=0)
    return started


def fail(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": ["good", "bad", "film"]})
    assert answer.status_code == 500, answer.text


@contextlib.contextmanager
def broken(core: ServingCore, variant: str | None = None) -> Iterator[None]:
    """Let an engine fail at every input."""
    classifier = core.catalog.engine(TASK, variant).loaded.classifier

    def run(inputs: object) -> np.ndarray:
        raise RuntimeError("broken")

    before, classifier.run = classifier.run, run  # type: ignore[method-assign]
    yield
    classifier.run = before  # type: ignore[method-assign]


def test_run_within_memory_halves_batch(client: TestClient) -> None:
    both = client.post(URL, json={"inputs": ["good", "bad film"]})
    assert both.status_code == 200, both.text
    apart = [client.post(URL, json={"inputs": text}).json()["predictions"][0] for text in ("good", "bad film")]
    assert both.json()["predictions"] == apart
    metrics = client.get("/metrics").text
    assert f"sparserve_batches_halved_total{LABELS} 1.0" in metrics
    assert f"sparserve_batches_failed_total{LABELS} 0.0" in metrics


def test_run_within_memory_halves_once(client: TestClient) -> None:
    fail(client)
    metrics = client.get("/metrics").text
    assert f"sparserve_batches_halved_total{LABELS} 1.0" in metrics
    assert f"sparserve_batches_failed_total{LABELS} 1.0" in metrics


def test_failing_engine_is_reloaded(client: TestClient, service_of: Callable[[TestClient], ServingCore]) -> None:
    before = service_of(client).catalog.engine(TASK)
    probes = ("/readyz", f"/v2/models/{TASK}/ready", f"/tei/{TASK}/health", f"/tei/{TASK}/hungry/health")
    with broken(service_of(client)):
        for _ in range(FAILURES_IN_ROW - 1):
            fail(client)
        assert {client.get(path).status_code for path in probes} == {200}
        fail(client)
    assert {client.get(path).status_code for path in probes} == {503}
    assert "hungry" in client.get("/readyz").json()["detail"]
    assert client.get(f"/v2/models/{TASK}/versions/dense/ready").status_code == 200
    service_of(client).catalog.refresh()
    assert {client.get(path).status_code for path in probes} == {200}
    after = service_of(client).catalog.engine(TASK)
    assert after is not before and after.manifest == before.manifest
    loads = f'sparserve_model_loads_total{{outcome="served",task="{TASK}",variant="hungry"}} 2.0'
    assert loads in client.get("/metrics").text
    service_of(client).catalog.refresh()
    assert service_of(client).catalog.engine(TASK) is after


def test_failing_engine_is_reloaded_within_memory_budget(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    publish(store, variant="hungry", model=hungry())
    store.set_default_variant(TASK, "hungry")
    sizes = [(store.folder(TASK, name) / "model.onnx").stat().st_size for name in store.variants(TASK)]
    client = serve(watch_seconds=0, max_model_bytes=sum(sizes))
    with broken(service_of(client)):
        for _ in range(FAILURES_IN_ROW):
            fail(client)
    service_of(client).catalog.refresh()
    assert client.get("/readyz").status_code == 200


def test_failing_engine_is_reloaded_without_polling(
    store: Store,
    serve: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "HEALTH_CHECK_SECONDS", 0.01)
    publish(store, variant="hungry", model=hungry())
    client = serve(watch_seconds=0)
    with broken(service_of(client), "hungry"):
        for _ in range(FAILURES_IN_ROW):
            fail(client)
    loads = f'sparserve_model_loads_total{{outcome="served",task="{TASK}",variant="hungry"}} 2.0'
    wait_until(lambda: loads in client.get("/metrics").text, "a second load")
    assert client.get(f"/tei/{TASK}/hungry/health").status_code == 200


def test_failing_engine_recovers_after_failed_reload(
    client: TestClient, store: Store, service_of: Callable[[TestClient], ServingCore]
) -> None:
    with broken(service_of(client)):
        for _ in range(FAILURES_IN_ROW):
            fail(client)
    path = store.folder(TASK, "hungry") / "model.onnx"
    content = path.read_bytes()
    os.truncate(path, 100)
    catalog, before = service_of(client).catalog, service_of(client).catalog.engine(TASK)
    catalog.refresh()
    assert client.get("/readyz").status_code == 503
    assert f'{{outcome="refused",task="{TASK}",variant="hungry"}} 1.0' in client.get("/metrics").text
    assert client.post(URL, json={"inputs": "good"}).status_code == 200
    assert client.get("/readyz").status_code == 200
    with broken(service_of(client)):
        for _ in range(FAILURES_IN_ROW):
            fail(client)
    path.write_bytes(content)  # and once its bundle is whole again, it is loaded though it was refused before
    catalog.refresh()
    assert catalog.engine(TASK) is not before
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/models").json()["refused"] == []


def test_engine_health_ignores_non_finite_numbers(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    # A bundle that answers so does not get past its warm-up: only an engine that is there already can show it.
    client = serve(watch_seconds=0)
    engine = service_of(client).catalog.engine(TASK)
    run = engine.loaded.classifier.run
    engine.loaded.classifier.run = lambda inputs: run(inputs) * np.float32("nan")  # type: ignore[method-assign]
    for _ in range(FAILURES_IN_ROW):
        assert client.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"}).status_code == 500
    assert engine.health.healthy
    assert client.get("/readyz").status_code == 200


def test_engine_that_rejects_one_kind_of_input_is_healthy(client: TestClient) -> None:
    for _ in range(FAILURES_IN_ROW + 1):
        fail(client)
    assert client.get("/readyz").status_code == 200
    assert client.post(URL, json={"inputs": "good"}).status_code == 200


def test_engine_health_success_resets_failures() -> None:
    health = EngineHealth()
    for _ in range(FAILURES_IN_ROW - 1):
        health.failed()
    health.succeeded()
    health.failed()
    assert health.healthy and not health.reload_due()


def test_engine_health_reload_backoff() -> None:
    health = EngineHealth()
    for _ in range(FAILURES_IN_ROW):
        health.failed()
    due = [look for look in range(1, 4 * MAX_POLLS_BETWEEN_RELOADS + 1) if health.reload_due()]
    assert due == [1, 2, 4, 8, 16, 32, 64, 96, 128]


def tokens(*lengths: int) -> list[Tokens]:
    return [Tokens([1] * length, [0] * length, False) for length in lengths]


def test_run_within_memory_order_and_other_errors() -> None:
    batches: list[int] = []

    def run(batch: Sequence[Tokens]) -> np.ndarray:
        batches.append(len(batch))
        if len(batch) > 3:
            raise MemoryError
        return np.array([[len(item)] for item in batch], dtype=np.float32)

    halved: list[None] = []
    found = run_within_memory(run, tokens(1, 2, 3, 4, 5), lambda: halved.append(None))
    assert found[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert (batches, len(halved)) == ([5, 2, 3], 1)

    def wrong(batch: Sequence[Tokens]) -> np.ndarray:
        batches.append(len(batch))
        raise ValueError("wrong")

    batches.clear()
    with pytest.raises(ValueError, match="wrong"):
        run_within_memory(wrong, tokens(1, 2), lambda: halved.append(None))
    assert (batches, len(halved)) == ([2], 1)


def test_run_within_memory_single_input() -> None:
    def run(batch: Sequence[Tokens]) -> np.ndarray:
        raise MemoryError

    with pytest.raises(MemoryError):
        run_within_memory(run, tokens(1), lambda: pytest.fail("one input was halved"))


@pytest.mark.parametrize("words", ["std::bad_alloc", "Failed to allocate memory for requested buffer of size 1"])
def test_is_out_of_memory_messages(words: str) -> None:
    assert is_out_of_memory(RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {words}"))
    assert not is_out_of_memory(RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT"))
