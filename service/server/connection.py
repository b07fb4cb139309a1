"""HTTP connections: close those whose client has stopped sending or reading. uvicorn alone would keep them open."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sparserve.service.http.fast_path import RESPOND
from sparserve.service.http.middleware.body_limit import BODY_RECEIVED
from sparserve.service.http.middleware.disconnect import WATCH_DISCONNECT
from sparserve.service.http.middleware.security_headers import add_security_headers
from sparserve.service.http.problems import problem_response
from sparserve.service.observability.metrics import Metrics
from sparserve.service.server.response_writer import ResponseWriter

# The limit of uvicorn's other parser; httptools has none.
MAX_HEAD_BYTES: Final = 64 * 2**10
MAX_DESCRIPTORS: Final = 65_536
# A client that has connected before a shutdown may be this late with its first request.
FIRST_REQUEST_SECONDS: Final = 1.0


class HttpConnection(Protocol):
    """The object that the parser calls back, uvicorn's connection; `headers` are those of the head being read."""

    parser: httptools.HttpRequestParser
    url: bytes
    headers: list[tuple[bytes, bytes]]


class Parser(httptools.HttpRequestParser):
    """httptools' parser for a server that ignores offers of another protocol, as RFC 9110 (7.8) allows.

    After a head with an Upgrade header httptools stops, because the bytes that follow should be of the other protocol.
    The body would be lost: Java's HttpClient and `curl --http2` offer HTTP/2 with every request. This parser reads the
    head once more without the header. Its connection must ignore the first end of the head, and of the message that
    seems to have no body: see `offers_upgrade`.
    """

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._reset()

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Parse bytes of the client.

        Raises:
            httptools.HttpParserError: they are not HTTP.
            httptools.HttpParserUpgrade: the request is CONNECT, which is for proxies.
        """
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                if not offers_upgrade(self._connection):
                    raise
                rest = rest[offer.args[0] :]
            else:
                return
            head = self._head_without_offer()
            self._reset()  # after `Connection: close` a parser accepts no more data
            super().feed_data(head)

    def _reset(self) -> None:
        super().__init__(self._connection)
        # Like uvicorn: a client may announce the close with its first request and send more.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_offer(self) -> bytes:
        version = self.get_http_version().encode()
        line = self.get_method() + b" " + self._connection.url + b" HTTP/" + version + b"\r\n"
        kept = [name + b": " + value + b"\r\n" for name, value in self._connection.headers if name != b"upgrade"]
        return b"".join([line, *kept, b"\r\n"])


def offers_upgrade(connection: HttpConnection) -> bool:
    """Return True if the head that a connection has just read offers another protocol."""
    return connection.parser.should_upgrade() and any([name == b"upgrade" for name, _ in connection.headers])


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with limits: it answers 408 or 431, or closes, instead of waiting or growing.

    `BodyLimitMiddleware` limits the time of a body, uvicorn the idle time between two requests.

    Args:
        seconds: time limit of the head of a request, and of a pause in reading a long response.
        metrics: counts connections and the reasons why they were closed.
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
        self._other_bytes = 0  # since the last bytes of the body: chunk sizes and trailers
        self._reading_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._lost = False
        self._stopping = False
        self._on_disconnect: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first head."""
        super().connection_made(transport)
        self._metrics.http.connections.inc()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._metrics.http.connections.dec()
        self._end_head()
        self._end_reading()
        super().connection_lost(exc)
        self._lost = True
        if self._on_disconnect is not None:
            self._on_disconnect()

    def shutdown(self) -> None:
        """Close once no request is running. A client that has not sent any yet has a moment for one."""
        if self.cycle is None and not self.transport.is_closing():
            self._stopping = True
            self.loop.call_later(FIRST_REQUEST_SECONDS, self._close_unused)
        else:
            super().shutdown()

    def watch_disconnect(self, callback: Callable[[], object] | None) -> None:
        """Call back once the client has disconnected, at once if it has already; None ends the watch.

        A connection answers one request at a time, so there is one callback at most.
        """
        self._on_disconnect = callback
        if self._lost and callback is not None:
            callback()

    def data_received(self, data: bytes) -> None:
        """Parse bytes of a head or of a body, and check their limits."""
        self._body_came = False
        super().data_received(data)
        # uvicorn stops its own timer at the first byte after a response. Most heads come as a whole and need no timer.
        if self._head_timer is None and (self._head_begun or self.cycle is None or self.cycle.response_complete):
            self._await_head()
        if self._head_begun and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._metrics.http.connections_given_up.labels("large_head").inc()
                self._refuse(431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes: send shorter headers")
        elif self._in_body and not self.transport.is_closing():
            self._other_bytes = 0 if self._body_came else self._other_bytes + len(data)
            if self._other_bytes > MAX_HEAD_BYTES:
                self._metrics.http.connections_given_up.labels("large_trailers").inc()
                self.transport.abort()  # the app may have started a response

    def on_message_begin(self) -> None:
        """Note the first byte of a head."""
        self._head_begun = True
        super().on_message_begin()
        self.scope["state"] |= {
            WATCH_DISCONNECT: self.watch_disconnect,
            RESPOND: self.respond,
        }

    def on_header(self, name: bytes, value: bytes) -> None:
        """Pass on a field of the head; trailers are ignored."""
        if self._head_begun:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note the last byte of a head."""
        if self.parser.should_upgrade() and offers_upgrade(self):
            return
        self._end_head()
        self._in_body, self._other_bytes = True, 0
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, ResponseWriter(self.transport, self.loop))
        if self._stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Note bytes of a body."""
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the last byte of a request."""
        self._in_body = False
        if not (self.parser.should_upgrade() and offers_upgrade(self)):
            self.scope["state"][BODY_RECEIVED] = self.cycle.body
            super().on_message_complete()

    def respond(self, scope: Scope, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole answer; return False if it must be sent as the server's interface has it.

        That takes many times as long: uvicorn checks each header, and has two messages for the head and the body. The
        names and values of `headers` must be valid. `scope` is the request's.
        """
        cycle = self.cycle
        # The client may have sent the next request already: `cycle` is that of the last one.
        if cycle.scope is not scope or cycle.response_started or self.flow.write_paused:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP."""
        self._refuse(400, "this is not an HTTP/1.1 request")

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Stop that timer: the client has read."""
        self._end_reading()
        super().resume_writing()

    def _close_unused(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._seconds, self._head_is_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer, self._head_begun, self._head_bytes = None, False, 0

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # the previous request is still running
            self._await_head()
            return
        self._metrics.http.connections_given_up.labels("slow_head").inc()
        if self._head_begun:
            self._refuse(408, f"the head of the request did not arrive within {self._seconds:g} s: send it at once")
        else:  # no request has begun: close without a response
            self.transport.close()

    def _await_reading(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._reading_timer = self.loop.call_later(self._seconds, self._reading_is_late)

    def _end_reading(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
        self._reading_timer = None

    def _reading_is_late(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread_bytes:  # slow, but still reading
            self._await_reading()
            return
        self._metrics.http.connections_given_up.labels("not_reading").inc()
        self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer in place of the app, which does not know of the request, and close the connection."""
        self._end_head()
        self._metrics.http.requests.labels("other", "unmatched", str(status)).inc()
        response = problem_response(status, detail, headers={"Connection": "close"})
        add_security_headers(response.headers)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", bytes(response.body)]))
        self.transport.close()


def allow_descriptors() -> None:
    """Raise the soft limit of open files, and so of connections, to the hard limit, up to `MAX_DESCRIPTORS`.

    The soft limit is often 1,024, for programs that use select(). A few dead clients would exhaust it.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
