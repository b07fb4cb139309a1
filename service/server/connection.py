"""Connections end whose client does not send, or does not read: uvicorn itself would keep them for ever."""

import asyncio
import sys
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sparserve.service.http.middleware.security_headers import add_security_headers
from sparserve.service.http.problems import problem_response
from sparserve.service.observability.metrics import Metrics
from sparserve.service.server.http_parser import Parser, offers_upgrade

# What uvicorn's other parser allows; this one has no limit.
MAX_HEAD_BYTES: Final = 64 * 2**10
DESCRIPTORS: Final = 65_536


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, which answers 408 or 431, or just ends, where it would wait or grow for ever.

    Bodies that do not come are `limits`' affair, idle connections between two requests uvicorn's own.

    Args:
        seconds: how long the head of a request may take, and how long a client that has much to read may read nothing.
    """

    def __init__(self, *arguments: Any, seconds: float, metrics: Metrics, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.parser = Parser(self)
        self._seconds = seconds
        self._metrics = metrics
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_begun = False
        self._head_bytes = 0
        self._in_body = False
        self._body_came = False
        self._other_bytes = 0  # since the body's last ones: sizes of chunks, and what comes after the last of them
        self._reading_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and should send a request."""
        super().connection_made(transport)
        self._metrics.http.connections.inc()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._metrics.http.connections.dec()
        self._end_head()
        self._end_reading()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head or of a body."""
        # uvicorn stops its own timer at the first byte after an answer.
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        self._body_came = False
        super().data_received(data)
        if self._head_begun and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._metrics.http.connections_given_up.labels("large_head").inc()
                self._refuse(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes: send shorter headers")
        elif self._in_body and not self.transport.is_closing():
            self._other_bytes = 0 if self._body_came else self._other_bytes + len(data)
            if self._other_bytes > MAX_HEAD_BYTES:
                self._metrics.http.connections_given_up.labels("large_trailers").inc()
                self.transport.abort()  # the app may have begun to answer

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        if self._head_timer is None:  # it came together with the request before it
            self._await_head()
        self._head_begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; those that follow a body are for nobody."""
        if self._head_begun:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The last byte of a head."""
        if offers_upgrade(self):
            return
        self._end_head()
        self._in_body, self._other_bytes = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._in_body = False
        if not offers_upgrade(self):
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(400, "this is not a request of HTTP/1.1")

    def pause_writing(self) -> None:
        """More of an answer waits for its client than should."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """The client has read again."""
        self._end_reading()
        super().resume_writing()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._seconds, self._head_is_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer, self._head_begun, self._head_bytes = None, False, 0

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # the request before it goes first
            self._await_head()
            return
        self._metrics.http.connections_given_up.labels("slow_head").inc()
        if self._head_begun:
            self._refuse(408, f"the request's head did not come within {self._seconds:g} s: send it at once")
        else:  # nothing was asked, so there is nothing to answer
            self.transport.close()

    def _await_reading(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._reading_timer = self.loop.call_later(self._seconds, self._reading_is_late)

    def _end_reading(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
        self._reading_timer = None

    def _reading_is_late(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread_bytes:  # slow, but not dead
            self._await_reading()
            return
        self._metrics.http.connections_given_up.labels("not_reading").inc()
        self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer in the place of the app, which has not heard of the request, and end the connection."""
        self._end_head()
        self._metrics.http.requests.labels("other", "unmatched", str(status)).inc()
        response = problem_response(status, detail, headers={"Connection": "close"})
        add_security_headers(response.headers)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", bytes(response.body)]))
        self.transport.close()


def allow_descriptors() -> None:
    """Let this process have as many connections as its hard limit of open files allows, up to `DESCRIPTORS`.

    The soft limit is often 1,024, for the sake of programs that use select(): a few dead clients would take it all.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
