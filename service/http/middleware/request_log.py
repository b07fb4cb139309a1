"""What is known of every request: its id, its metrics, its log line, and a 500 that tells a client no internals."""

import asyncio
import logging
import re
import time
import uuid
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.api.open_inference_codec import name_media_type
from sparserve.service.drain import Drain
from sparserve.service.http.middleware.security_headers import protect
from sparserve.service.http.problems import problem_response
from sparserve.service.observability.logs import FIELDS, where
from sparserve.service.observability.metrics import Metrics
from sparserve.service.observability.request_record import PROBES, RequestRecord, Tracer, recording

logger = logging.getLogger("sparserve.requests")

# W3C Trace Context: version, trace id, parent id, flags; versions after 00 may append fields.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestObserver:
    """ASGI middleware around everything else. Neither texts nor bodies are logged.

    With `addresses` the log has the clients' addresses; with a `tracer` the ids of its traces.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, drain: Drain, addresses: bool = True, tracer: Tracer | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain
        self._addresses = addresses
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the request an id, run it and write down how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["arrived"] = started
        request_id = state["request_id"] = _request_id(scope)
        record = self._new_record(scope)
        status: int | None = None
        bytes_in = bytes_out = 0

        async def counted() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def observed(message: Message) -> None:
            nonlocal status, bytes_out
            bytes_out += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                name_media_type(scope["path"], headers)
                protect(headers)
                if self._drain.draining:
                    headers["Connection"] = "close"
            await send(message)

        token = recording.set(record)
        try:
            await self._app(scope, counted, observed)
        except asyncio.CancelledError:  # only uvicorn does this, once the grace time is over
            self._drain.dropped += 1
            raise
        except Exception as error:
            # Where it happened and its class; its message might repeat a text.
            frames, kind = where(error), type(error).__name__
            facts = {**_ids(request_id, record), "exception": kind, "traceback": frames}
            logger.error("request %s failed with %s\n%s", request_id, kind, frames, extra={FIELDS: facts})
            if status is not None:
                raise
            detail = f"something went wrong here; the log has it under request {request_id}"
            await problem_response(500, detail, request_id=request_id)(scope, counted, observed)
        finally:
            recording.reset(token)
            sizes = {"bytes_in": bytes_in, "bytes_out": bytes_out}
            self._write(scope, status or 499, time.perf_counter() - started, record, request_id, sizes)

    def _new_record(self, scope: Scope) -> RequestRecord:
        # A probe has no span, and so no trace of its own.
        if self._tracer and scope["path"] not in PROBES:
            return RequestRecord(self._tracer.trace_id(), self._tracer)
        return RequestRecord(_trace_id(scope))

    def _write(
        self, scope: Scope, status: int, seconds: float, record: RequestRecord, request_id: str, sizes: dict[str, int]
    ) -> None:
        # Unmatched paths share one label: a scanner must not make a time series for every path that it tries.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.http.requests.labels(method, route, str(status)).inc()
        self._metrics.http.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = {
            **_ids(request_id, record),
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
            **record.facts(),
        }
        waited = record.queue_seconds()
        if waited is not None:
            fields["batch_wait_milliseconds"] = round(waited * 1000, 3)
        if key_name := scope["state"].get("key_name"):
            fields["key"] = key_name
        if self._addresses and scope.get("client"):
            fields["client"] = scope["client"][0]
        fields |= sizes
        logger.log(
            level, "%s %s %d %.1f ms %s", method, route, status, seconds * 1000, request_id, extra={FIELDS: fields}
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _ids(request_id: str, record: RequestRecord) -> dict[str, Any]:
    return {"request_id": request_id, **({"trace_id": record.trace_id} if record.trace_id else {})}


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _trace_id(scope: Scope) -> str | None:
    """Return the trace id of the client's traceparent header; None without a valid one."""
    headers = Headers(scope=scope).getlist("traceparent")
    match = _TRACEPARENT.fullmatch(headers[0].strip()) if len(headers) == 1 else None
    if match is None or (headers[0].startswith("00") and match[2]):
        return None
    return match[1]
