"""Middleware that reads whole bodies, within limits of size, time and the bytes of all bodies together."""

import asyncio
import zlib
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.errors import (
    BodyTooLarge,
    ServiceError,
    SlowRequest,
    TooLarge,
    UnreadableRequest,
    UnsupportedContent,
)
from sparserve.service.http.problems import error_response
from sparserve.service.limits import BodyBudget, BodyShare

# Of a body that is too large, up to this many times the limit is read and thrown away.
DISCARDED_FACTOR: Final = 8
# zlib's window bits: the largest window, in gzip's format or in zlib's, which HTTP calls deflate.
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BodyLimitMiddleware:
    """Read and decompress the whole body before calling the app.

    Args:
        max_bytes: of one body, compressed or not, declared or not.
        seconds: time for the body to arrive.
        budget: holds the body's bytes until the app has answered.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float, budget: BodyBudget) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on in one message, decompressed, or answer 400, 408, 413, 415 or 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        with BodyShare(self._budget) as share:
            try:
                content = await self._body(headers, receive, share)
                if content is None:
                    return
                encoding = headers.get("content-encoding", "identity").strip().lower()
                if content and encoding != "identity":
                    content = decompress(content, encoding, self._max_bytes)
                    share.resize(len(content))
                    outdated = (b"content-encoding", b"content-length")
                    kept = [header for header in scope["headers"] if header[0] not in outdated]
                    scope["headers"] = [*kept, (b"content-length", str(len(content)).encode())]
            except ServiceError as error:
                await error_response(error, scope)(scope, receive, send)
                return
            body = {"type": "http.request", "body": content, "more_body": False}
            await self._app(scope, _replay(body, receive), send)

    async def _body(self, headers: Headers, receive: Receive, share: BodyShare) -> bytes | None:
        """Return the body; None if the client disconnects before its end."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._read(headers, receive, share)
        except TimeoutError as error:
            raise SlowRequest(f"the body did not arrive within {self._seconds:g} s: send it at once") from error

    async def _read(self, headers: Headers, receive: Receive, share: BodyShare) -> bytes | None:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            # A client that waits for "100 Continue" has sent nothing yet.
            if headers.get("expect", "").lower() != "100-continue":
                await self._discard(receive)
            raise self._too_large()
        content, more = bytearray(), True  # not a list: many short parts would take many times their size
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            content += message.get("body", b"")
            more = message.get("more_body", False)
            try:
                if len(content) > self._max_bytes:
                    raise self._too_large()
                share.resize(len(content))
            except ServiceError:
                content.clear()
                share.resize(0)
                if more:
                    await self._discard(receive)
                raise
        return bytes(content)

    async def _discard(self, receive: Receive) -> None:
        # A client that is still sending does not read the answer: it would only see a broken connection.
        discarded, more = 0, True
        while more and discarded < DISCARDED_FACTOR * self._max_bytes:
            message = await receive()
            discarded += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body has more than {self._max_bytes} bytes: send fewer inputs at a time")


def _replay(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that returns a message that was received already, then those that follow."""
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return message

    return receive_again


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its Content-Encoding; never makes more than `limit` bytes.

    Raises:
        UnsupportedContent: the encoding is neither gzip nor deflate.
        UnreadableRequest: the body does not have that encoding, or is incomplete.
        TooLarge: it has more than `limit` bytes when decompressed.
    """
    if encoding not in _WINDOW_BITS:
        raise UnsupportedContent("this Content-Encoding is not supported: send gzip, deflate or the body as it is")
    decompressor = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise UnreadableRequest(f"the body is not {encoding}, as its Content-Encoding says") from error
    if len(content) > limit:
        raise TooLarge(f"the body has more than {limit} bytes once unpacked: send fewer inputs at a time")
    if not decompressor.eof:
        raise UnreadableRequest(f"the body is not complete {encoding}: its end is missing")
    if decompressor.unused_data:
        raise UnreadableRequest(f"the body continues after the end of its {encoding}: send one stream")
    return content
