"""Keep-alive connections of the load generator.

A client library would take a large part of the CPU that a fast server needs, which matters where the generator shares
CPUs with the server. The page of results names the generator's own use of the CPU.
"""

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

GAVE_UP: Final = 0
NO_ANSWER: Final = -1


class Connection(asyncio.Protocol):
    """One connection, with at most one request at a time."""

    def __init__(self) -> None:
        self.is_open = True
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Close the connection. A request that waits for an answer fails."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of the answer, once it is complete.

        Raises:
            ConnectionError: the connection was lost before.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


class ConnectionPool:
    """Connections to the server of a URL. A request uses an idle one or opens another."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port, self._path = address.hostname, address.port, address.path
        self._idle: list[Connection] = []

    def request(self, body: str, headers: dict[str, str]) -> bytes:
        """Return the bytes of a POST request."""
        content = body.encode()
        lines = [f"POST {self._path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + content

    async def ask(self, request: bytes, patience: float) -> int:
        """Return the status of the answer, `GAVE_UP` after `patience` seconds, or `NO_ANSWER`."""
        try:
            async with asyncio.timeout(patience):
                while self._idle:
                    if (connection := self._idle.pop()).is_open:
                        try:
                            return await self._use(connection, request)
                        except ConnectionError:
                            break  # the server closed it while it was idle
                return await self._use(await self._connect(), request)
        except TimeoutError:
            return GAVE_UP
        except OSError:
            return NO_ANSWER

    def close(self) -> None:
        """Close idle connections."""
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
        return connection

    async def _use(self, connection: Connection, request: bytes) -> int:
        try:
            status = await connection.ask(request)
        except BaseException:  # also a timeout: a late answer must not be taken for the next one
            connection.close()
            raise
        if connection.is_open:
            self._idle.append(connection)
        return status
