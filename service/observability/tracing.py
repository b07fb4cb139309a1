"""OpenTelemetry traces: a span per request, made by FastAPI, with a child per stage.

The module is imported only if an endpoint is set. FastAPI follows the HTTP semantic conventions and continues the W3C
traceparent of the client.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import Scope

from sparserve.service.observability.request_record import PROBES
from sparserve.service.version import VERSION

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

TRACES_PATH: Final = "/v1/traces"
# Limit of one export, retries included. A collector that does not answer delays the shutdown by this time.
SENDING_SECONDS: Final = 3.0


class RequestTracer:
    """Sends the spans of requests to an exporter, on a separate thread.

    The sampler is the default of OpenTelemetry, which follows the traceparent of the client, unless
    `OTEL_TRACES_SAMPLER` is set.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": "sparserve", "service.version": VERSION})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_WithoutQuery())
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sparserve", VERSION)

    @classmethod
    def to(cls, endpoint: str) -> "RequestTracer":
        """Return a tracer that sends to an OTLP collector over HTTP, such as http://localhost:4318."""
        base = endpoint.rstrip("/")
        address = base if base.endswith(TRACES_PATH) else base + TRACES_PATH
        return cls(OTLPSpanExporter(endpoint=address, timeout=SENDING_SECONDS))

    def telemetry(self) -> "TelemetryConfig":
        """Return the configuration with which FastAPI makes the spans of requests, except probes."""
        return {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,  # they would contain messages of exceptions, which may repeat a text
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_probe,
        }

    def trace_id(self) -> str:
        """Return the id of the current request's trace, 32 hexadecimal digits."""
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    def describe(self, facts: dict[str, str | int]) -> None:
        """Add attributes to the current request's span."""
        trace.get_current_span().set_attributes(_attributes(facts))

    def stage(self, name: str, began: float, ended: float, facts: dict[str, str | int]) -> None:
        """Add a child span to the current request; `began` and `ended` are seconds on the performance counter."""
        now, counter = time.time_ns(), time.perf_counter()
        start, end = (now - int((counter - moment) * 1e9) for moment in (began, ended))
        self._tracer.start_span(name, attributes=_attributes(facts), start_time=start).end(end)

    @contextlib.contextmanager
    def request(
        self, method: str, route: str, headers: Mapping[str, str], status: Callable[[], int | None]
    ) -> Iterator[None]:
        """Make the span of a request that does not pass through FastAPI, as a child of its `traceparent`.

        `status` returns the HTTP status that the request ended with, None if it was cancelled.
        """
        attributes = {"http.request.method": method, "http.route": route, "url.scheme": "http"}
        parent = propagate.extract(headers)
        span = self._tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        finally:
            code = status()
            if code is not None:
                span.set_attribute("http.response.status_code", code)
            if code is None or code >= 500:
                span.set_attribute("error.type", "cancelled" if code is None else str(code))
                span.set_status(StatusCode.ERROR)
            span.end()

    def close(self) -> None:
        """Send the remaining spans and stop; takes seconds if the collector does not answer."""
        self._provider.shutdown()


class _WithoutQuery(SpanProcessor):
    """Redact query strings: ours never contain text, but a misbehaving client's might."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.attributes and span.attributes.get("url.query"):
            span.set_attribute("url.query", "REDACTED")


def _is_probe(scope: Scope) -> bool:
    return scope.get("path") in PROBES


def _attributes(facts: dict[str, str | int]) -> dict[str, str | int]:
    return {f"sparserve.{name}": value for name, value in facts.items()}
