"""Middleware that gives each request an id, counts and logs it, and answers unexpected exceptions with 500."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.drain import Drain
from sparserve.service.http.problems import problem_response
from sparserve.service.observability.request_log import LoggedRequest, RequestLog, choose_request_id, trace_id_of
from sparserve.service.observability.request_record import PROBES, RequestRecord, Tracer, recording


class RequestLogMiddleware:
    """Outermost of the middlewares that handle requests; with a `tracer` the log has the ids of its traces."""

    def __init__(self, app: ASGIApp, *, log: RequestLog, drain: Drain, tracer: Tracer | None = None) -> None:
        self._app = app
        self._log = log
        self._drain = drain
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, then count and log the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request = LoggedRequest(
            request_id=choose_request_id(headers.get("x-request-id", "")),
            method=scope["method"],
            record=self._record(scope, headers),
            client=scope["client"][0] if scope.get("client") else None,
        )
        state = scope.setdefault("state", {})
        state["arrived"] = request.started
        state["request_id"] = request.request_id

        async def counted_receive() -> Message:
            message = await receive()
            request.bytes_in += len(message.get("body", b""))
            return message

        async def observed_send(message: Message) -> None:
            request.bytes_out += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                request.status = message["status"]
                answer_headers = MutableHeaders(scope=message)
                answer_headers["X-Request-Id"] = request.request_id
                if self._drain.draining:
                    answer_headers["Connection"] = "close"
            await send(message)

        token = recording.set(request.record)
        try:
            await self._app(scope, counted_receive, observed_send)
        except asyncio.CancelledError:  # only uvicorn does this, at the end of the grace time
            self._drain.dropped += 1
            raise
        except Exception as error:
            detail = self._log.log_failure(request, error)
            if request.status is not None:
                raise
            await problem_response(500, detail, scope)(scope, counted_receive, observed_send)
        finally:
            recording.reset(token)
            request.route = getattr(scope.get("route"), "path", None)
            request.key_name = state.get("key_name")
            self._log.finish(request)

    def _record(self, scope: Scope, headers: Headers) -> RequestRecord:
        # A probe has no span, and so no trace.
        if self._tracer and scope["path"] not in PROBES:
            return RequestRecord(self._tracer.trace_id(), self._tracer)
        return RequestRecord(trace_id_of(headers.getlist("traceparent")))
