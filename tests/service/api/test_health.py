"""Probes, facts and metrics."""

import re
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.settings import Settings
from tests.support.service.fixtures import Serve, ServiceOf
from tests.support.tiny_bundles import TASK


def test_readyz_once_default_models_are_warm(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_readyz_503_while_loading(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(store=store.root, threads=1))
    service = app.state.service
    reached, release = threading.Event(), threading.Event()
    load = service.catalog.loader.load

    def slow(*arguments: Any) -> Any:
        reached.set()
        release.wait()
        return load(*arguments)

    monkeypatch.setattr(service.catalog.loader, "load", slow)
    with TestClient(app) as client:
        reached.wait(timeout=10)
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert f"still loading: {TASK}/dense" in ready.json()["detail"]
        assert client.get("/livez").status_code == 200
        answer = client.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"})
        assert answer.status_code == 503 and "still loading" in answer.json()["detail"]
        assert client.get(f"/v1/models/{TASK}/dense").json()["state"] == "loading"
        release.set()
        assert client.portal
        client.portal.call(service.loaded)
        assert client.get("/readyz").status_code == 200


def test_readyz_503_while_shutting_down(client: TestClient, service_of: ServiceOf) -> None:
    service_of(client).drain.begin()
    ready = client.get("/readyz")
    assert ready.status_code == 503 and "shutting down" in ready.json()["detail"]
    answer = client.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"})
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    assert client.get("/livez").status_code == 200


def test_info_has_the_limits_in_effect(serve: Serve) -> None:
    info = serve(threads=4, concurrency=2, max_items=7).get("/info").json()
    assert info["limits"]["max_items"] == 7
    assert info["threads"]["per_session"] == 3
    assert info["libraries"]["onnxruntime"]
    assert info["ready"] is True


def test_metrics_count_requests(client: TestClient) -> None:
    client.post(f"/v1/models/{TASK}/classify", json={"inputs": ["good", "good " * 50]})
    client.get("/" + "x" * 100)
    text = client.get("/metrics").text
    labels = f'{{task="{TASK}",variant="dense"}}'
    assert f"sparserve_inputs_total{labels} 2.0" in text
    assert f"sparserve_truncated_inputs_total{labels} 1.0" in text
    assert f"sparserve_tokens_total{labels} 19.0" in text
    route = "/v1/models/{task}/classify"
    assert f'sparserve_http_requests_total{{method="POST",route="{route}",status="200"}} 1.0' in text
    assert 'route="unmatched"' in text and "xxx" not in text
    assert "sparserve_ready 1.0" in text


def test_metrics_have_help_and_base_units(client: TestClient) -> None:
    text = client.get("/metrics").text
    ours = set(re.findall(r"^# TYPE (sparserve_\w+)", text, re.MULTILINE))
    assert ours == set(re.findall(r"^# HELP (sparserve_\w+) \S", text, re.MULTILINE))
    assert not [name for name in ours if re.search(r"milli|micro|_ms|_kb|_mb|percent", name)]


def test_metrics_of_two_apps_are_separate(serve: Serve) -> None:
    one, other = serve(), serve()
    one.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"})
    assert "sparserve_inputs_total{" not in other.get("/metrics").text
