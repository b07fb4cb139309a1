"""Middleware that gives each request an id, counts and logs it, and answers unexpected exceptions with 500."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.drain import Drain
from sparserve.service.http.headers import first_values, text_of
from sparserve.service.http.problems import problem_response
from sparserve.service.observability.request_log import LoggedRequest, RequestLog, choose_request_id, trace_id_of
from sparserve.service.observability.request_record import PROBES, RequestRecord, Tracer, recording


class RequestLogging:
    """Begins and ends the record of an HTTP request; with a `tracer` the log has the ids of its traces."""

    def __init__(self, *, log: RequestLog, drain: Drain, tracer: Tracer | None = None) -> None:
        self._log = log
        self._drain = drain
        self._tracer = tracer

    @property
    def draining(self) -> bool:
        """True once the process is shutting down."""
        return self._drain.draining

    def begin(self, scope: Scope) -> LoggedRequest:
        """Return the record of a request that has just arrived, and note its id and time in its state."""
        headers = first_values(scope)
        request = LoggedRequest(
            request_id=choose_request_id(text_of(headers.get(b"x-request-id", b""))),
            method=scope["method"],
            record=self._record(scope) if self._tracer or b"traceparent" in headers else RequestRecord(),
            client=scope["client"][0] if scope.get("client") else None,
        )
        state = scope.setdefault("state", {})
        state["arrived"] = request.started
        state["request_id"] = request.request_id
        recording.set(request.record)
        return request

    def end(self, request: LoggedRequest, scope: Scope) -> None:
        """Count and log a request."""
        recording.set(None)
        request.route = getattr(scope.get("route"), "path", None)
        request.key_name = scope["state"].get("key_name")
        self._log.finish(request)

    def dropped(self) -> None:
        """Count a request that the server cancelled, as only uvicorn does at the end of the grace time."""
        self._drain.dropped += 1

    def failed(self, request: LoggedRequest, error: Exception) -> str:
        """Log an unexpected exception, and return the message for the client."""
        return self._log.log_failure(request, error)

    def headers(self, request: LoggedRequest) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer to a request."""
        headers = [(b"x-request-id", request.request_id.encode())]
        if (warning := request.record.warning()) is not None:
            headers.append((b"x-sparserve-warning", warning.encode()))
        if self.draining:
            headers.append((b"connection", b"close"))
        return headers

    def _record(self, scope: Scope) -> RequestRecord:
        # A probe has no span, and so no trace.
        if self._tracer and scope["path"] not in PROBES:
            return RequestRecord(self._tracer.trace_id(), self._tracer)
        return RequestRecord(trace_id_of(Headers(scope=scope).getlist("traceparent")))


class RequestLogMiddleware:
    """Outermost of the middlewares that handle requests."""

    def __init__(self, app: ASGIApp, *, logging: RequestLogging) -> None:
        self._app = app
        self._logging = logging

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, then count and log the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = self._logging.begin(scope)

        async def counted_receive() -> Message:
            message = await receive()
            request.bytes_in += len(message.get("body", b""))
            return message

        async def observed_send(message: Message) -> None:
            request.bytes_out += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                request.status = message["status"]
                answer_headers = MutableHeaders(scope=message)
                for name, value in self._logging.headers(request):
                    answer_headers[name.decode()] = value.decode()
            await send(message)

        try:
            await self._app(scope, counted_receive, observed_send)
        except asyncio.CancelledError:
            self._logging.dropped()
            raise
        except Exception as error:
            detail = self._logging.failed(request, error)
            if request.status is not None:
                raise
            await problem_response(500, detail, scope)(scope, counted_receive, observed_send)
        finally:
            self._logging.end(request, scope)
