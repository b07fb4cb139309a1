"""Traces: FastAPI's span of a request with its stages below, sent to a collector that really is there."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import ValidationError

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.observability.tracing import RequestTracer
from sparserve.service.settings import Settings
from tests.support.tiny_bundles import TASK

ROOT = Path(__file__).parents[3]
URL = f"/v1/models/{TASK}/classify"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
Traced = Callable[[Callable[[TestClient], object]], list[ReadableSpan]]


@pytest.fixture
def traced(store: Store) -> Traced:
    """Use a service and return the spans that it has made."""

    def run(use: Callable[[TestClient], object]) -> list[ReadableSpan]:
        exporter = InMemorySpanExporter()
        app = create_app(Settings(store=store.root, threads=1), tracer=RequestTracer(exporter))
        with TestClient(app, raise_server_exceptions=False) as client:
            assert client.portal
            client.portal.call(app.state.service.loaded)
            use(client)
        return list(exporter.get_finished_spans())

    return run


def test_a_request_is_a_span_with_its_stages_in_order_below(traced: Traced, store: Store) -> None:
    spans = traced(lambda client: client.post(URL, json={"inputs": ["good", "bad film"]}))
    (request,) = [span for span in spans if span.kind is SpanKind.SERVER]
    assert request.name == "POST /v1/models/{task}/classify"
    assert request.attributes
    expected = {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/models/{task}/classify",
        "url.path": URL,
        "sparserve.task": TASK,
        "sparserve.variant": "dense",
        "sparserve.version": store.current(TASK, "dense"),
        "sparserve.inputs": 2,
        "sparserve.tokens": 7,
    }
    assert {name: request.attributes.get(name) for name in expected} == expected
    stages = [span for span in spans if span is not request]
    assert [span.name for span in stages] == ["tokenize", "queue", "inference"]
    assert request.context and request.start_time and request.end_time
    assert all(span.parent and span.parent.span_id == request.context.span_id for span in stages)
    moments = [moment for span in stages for moment in (span.start_time, span.end_time) if moment]
    # In nanoseconds, each converted from another clock: a millisecond is not worth an argument.
    slack = 1_000_000
    assert request.start_time <= moments[0] + slack and moments[-1] <= request.end_time + slack
    assert all(one <= other + slack for one, other in pairwise(moments))
    assert request.resource.attributes["service.name"] == "sparserve"


def test_the_clients_trace_is_continued_and_logged(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    spans = traced(lambda client: client.post(URL, json={"inputs": "good"}, headers=headers))
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {TRACE}
    (request,) = [span for span in spans if span.kind is SpanKind.SERVER]
    assert request.parent and f"{request.parent.span_id:016x}" == PARENT
    (line,) = [record for record in caplog.records if record.name == "sparserve.requests"]
    assert vars(line)["fields"]["trace_id"] == TRACE


def test_without_the_clients_the_log_has_the_services_own(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spans = traced(lambda client: client.post(URL, json={"inputs": "good"}))
    (line,) = [record for record in caplog.records if record.name == "sparserve.requests"]
    assert spans[0].context and vars(line)["fields"]["trace_id"] == f"{spans[0].context.trace_id:032x}"


def test_a_client_that_does_not_sample_is_obeyed(traced: Traced) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert not traced(lambda client: client.post(URL, json={"inputs": "good"}, headers=headers))


def test_trace_has_no_texts_queries_messages_or_probes(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(client: TestClient) -> None:
        client.get("/readyz")
        client.get("/metrics")
        client.post(f"{URL}?text=a+secret", json={"inputs": "a secret"})
        client.post(URL, json={"inputs": {"a secret": 1}})
        service = client.app.state.service  # type: ignore[attr-defined]

        def fail(*_: object) -> None:
            raise RuntimeError("a secret")

        monkeypatch.setattr(service.catalog, "engine", fail)
        assert client.post(URL, json={"inputs": "a secret"}).status_code == 500

    spans = traced(use)
    requests = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [span.status.status_code for span in requests] == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    assert not [span for span in spans if "secret" in span.to_json()]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Address of an OTLP collector, and what it gets."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_spans_are_sent_before_shutdown(store: Store, collector: Any, path: str) -> None:
    address, got = collector
    settings = Settings(store=store.root, threads=1, otlp_endpoint=address + path)
    app = create_app(settings)
    with TestClient(app) as client:
        assert client.portal
        client.portal.call(app.state.service.loaded)
        assert client.post(URL, json={"inputs": "good"}).status_code == 200
    names = [span.name for one in got for group in one.resource_spans for s in group.scope_spans for span in s.spans]
    assert sorted(names) == ["POST /v1/models/{task}/classify", "inference", "queue", "tokenize"]


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "sparserve.service.observability.tracing", raising=False)
    with pytest.raises(ValidationError, match=r'pip install "sparserve\[otel\]"'):
        Settings(otlp_endpoint="http://localhost:4318")


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    code = (
        "import sparserve.service.__main__, sys; from sparserve.service.app import create_app; create_app(); "
        "print('opentelemetry.sdk' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
