"""What is known of every request: its id, its metrics, its log line, and a 500 that tells a client no internals."""

import asyncio
import logging
import re
import time
import traceback
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import problem_response
from service.metrics import Metrics
from service.shutdown import Drain

logger = logging.getLogger("service.requests")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


class RequestObserver:
    """ASGI middleware around everything else. Neither texts nor bodies are logged."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, drain: Drain) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the request an id, run it and write down how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(scope)
        status: int | None = None

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if self._drain.draining:
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:  # only uvicorn does this, once the grace time is over
            self._drain.dropped += 1
            raise
        except Exception as error:
            # Where it happened and its class; its message might repeat a text.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("request %s failed with %s\n%s", request_id, type(error).__name__, where)
            if status is not None:
                raise
            detail = f"something went wrong here; the log has it under request {request_id}"
            await problem_response(500, detail, request_id=request_id)(scope, receive, observed)
        finally:
            self._record(scope, status or 499, time.perf_counter() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        # Unmatched paths share one label: a scanner must not make a time series for every path that it tries.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in _PROBES else logging.INFO
        logger.log(level, "%s %s %d %.1f ms %s", method, route, status, seconds * 1000, request_id)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
