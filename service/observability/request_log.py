"""One log line and the metrics of each request, whatever its protocol. Neither texts nor bodies are logged."""

import logging
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sparserve.service.observability.logs import FIELDS, traceback_of
from sparserve.service.observability.metrics import Metrics
from sparserve.service.observability.request_record import PROBES, RequestRecord

logger = logging.getLogger("sparserve.requests")

# Status of a request whose client disconnected before the answer.
CLIENT_CLOSED: Final = 499
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# W3C Trace Context: version, trace id, parent id, flags; versions after 00 may append fields.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Paths without a route share one label: a scanner must not create a time series for every path that it tries.
_NO_ROUTE: Final = "unmatched"
# The attributes of a record of a request, by level.
_templates: Final[dict[int, dict[str, Any]]] = {}


@dataclass
class LoggedRequest:
    """Facts of one request for its log line; filled in while it runs. `started` is on the performance counter."""

    request_id: str
    method: str
    record: RequestRecord
    client: str | None = None
    route: str | None = None
    status: int | None = None
    key_name: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    started: float = field(default_factory=time.perf_counter)

    def ids(self) -> dict[str, Any]:
        """Return the request's id, and its trace's if it has one."""
        trace_id = self.record.trace_id
        return {"request_id": self.request_id, **({"trace_id": trace_id} if trace_id else {})}


class RequestLog:
    """Counts and logs requests; the log has the clients' addresses if `addresses` is set."""

    def __init__(self, metrics: Metrics, *, addresses: bool = True) -> None:
        self._metrics = metrics
        self._addresses = addresses

    def log_failure(self, request: LoggedRequest, error: Exception) -> str:
        """Log an unexpected exception, and return the message for the client.

        The log has the exception's class and its frames only: its message might repeat a text.
        """
        frames, kind = traceback_of(error), type(error).__name__
        facts = {**request.ids(), "exception": kind, "traceback": frames}
        logger.error("request %s failed with %s\n%s", request.request_id, kind, frames, extra={FIELDS: facts})
        return f"internal error; the log has the details under request id {request.request_id}"

    def finish(self, request: LoggedRequest) -> None:
        """Count a request, and write its line."""
        seconds = time.perf_counter() - request.started
        route, status = request.route or _NO_ROUTE, request.status or CLIENT_CLOSED
        method = request.method if request.method in _METHODS else "other"
        self._metrics.http.answered(method, route, status, seconds)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = {
            **request.ids(),
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
            **request.record.facts(),
        }
        queue_seconds = request.record.queue_seconds()
        if queue_seconds is not None:
            fields["batch_wait_milliseconds"] = round(queue_seconds * 1000, 3)
        if (warning := request.record.warning()) is not None:
            fields["warning"] = warning
        if request.key_name:
            fields["key"] = request.key_name
        if self._addresses and request.client is not None:
            fields["client"] = request.client
        fields |= {"bytes_in": request.bytes_in, "bytes_out": request.bytes_out}
        message = (method, route, status, seconds * 1000, request.request_id)
        logger.handle(_record(level, message, fields))


def _record(level: int, message: tuple[object, ...], fields: dict[str, Any]) -> logging.LogRecord:
    """Return a record of a request.

    A new `LogRecord` looks up its file, its thread and its process, and `logger.log` the function that called it. All
    requests have the same ones, so this is a copy of the first record.
    """
    known = _templates.get(level)
    if known is None:
        new = logging.LogRecord(logger.name, level, __file__, 0, "%s %s %d %.1f ms %s", None, None)
        known = _templates[level] = vars(new)
    record = logging.LogRecord.__new__(logging.LogRecord)
    created = time.time()
    vars(record).update(known, args=message, created=created, msecs=created % 1 * 1000, **{FIELDS: fields})
    return record


def choose_request_id(sent: str) -> str:
    """Return the client's request id if it is valid, else a new one."""
    # Unlike uuid4(), which reads random bytes of the system and lets another thread take the interpreter meanwhile.
    return sent if sent and _REQUEST_ID.fullmatch(sent) else f"{random.getrandbits(128):032x}"


def trace_id_of(traceparents: Sequence[str]) -> str | None:
    """Return the trace id of the client's traceparent headers; None without exactly one valid header."""
    match = _TRACEPARENT.fullmatch(traceparents[0].strip()) if len(traceparents) == 1 else None
    if match is None or (traceparents[0].startswith("00") and match[2]):
        return None
    return match[1]
