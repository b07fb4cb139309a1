"""Writes of a response: its head together with the beginning of its body."""

import asyncio
from typing import Final

# Beginning of an answer that comes before the answer, to a client that waits before it sends its body.
CONTINUE: Final = b"HTTP/1.1 100 "


class ResponseWriter:
    """Transport of one response that joins the head with the bytes that follow at once.

    uvicorn writes them separately. Each write is a system call, which takes about a tenth of the time of a short
    request; and a client may read the head alone before it reads the rest.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._head_written = False

    def write(self, data: bytes) -> None:
        """Write bytes, but keep the head until more bytes follow, or until the event loop gets its turn."""
        if self._head is not None:
            data, self._head = self._head + data, None
        elif not self._head_written and not data.startswith(CONTINUE):
            self._head, self._head_written = data, True
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return True if the connection is closing or closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)
