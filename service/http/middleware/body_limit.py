"""Middleware that reads whole bodies, within limits of size, time and the bytes of all bodies together."""

import asyncio
import zlib
from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.errors import (
    BodyTooLarge,
    ServiceError,
    SlowRequest,
    TooLarge,
    UnreadableRequest,
    UnsupportedContent,
)
from sparserve.service.http.headers import first_values, text_of
from sparserve.service.http.problems import error_response
from sparserve.service.limits import BodyBudget, BodyShare

# Of a body that is too large, up to this many times the limit is read and thrown away.
DISCARDED_FACTOR: Final = 8
# Name, in the state of a request, of the whole body, once its server has received it.
BODY_RECEIVED: Final = "body_received"
# Longer bodies are read as messages even so: the server has stopped reading until then.
SHORT_BYTES: Final = 2**15
# The Content-Encoding of a body that is not compressed.
IDENTITY: Final = "identity"
# zlib's window bits: the largest window, in gzip's format or in zlib's, which HTTP calls deflate.
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BodyReader:
    """Reads and decompresses whole bodies.

    Args:
        max_bytes: of one body, compressed or not, declared or not.
        seconds: time for the body to arrive.
    """

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds

    def received(self, scope: Scope, share: BodyShare) -> bytes | None:
        """Return a short body that has arrived already and has no encoding, whose bytes `share` holds; None for others.

        Raises:
            TooManyBodies: as described there.
        """
        body: bytearray | None = scope["state"].get(BODY_RECEIVED)
        if body is None or len(body) > min(SHORT_BYTES, self._max_bytes):
            return None
        share.resize(len(body))
        return bytes(body)

    async def read(self, scope: Scope, receive: Receive, share: BodyShare) -> bytes | None:
        """Return the body, whose bytes `share` holds; None if the client disconnects before its end.

        Raises:
            BodyTooLarge, SlowRequest, TooManyBodies: as described there.
            UnsupportedContent, UnreadableRequest, TooLarge: as in `decompress`.
        """
        headers = first_values(scope)
        if BODY_RECEIVED in scope["state"]:
            content = await self._read(headers, receive, share)
        else:
            try:
                async with asyncio.timeout(self._seconds):
                    content = await self._read(headers, receive, share)
            except TimeoutError as error:
                raise SlowRequest(f"the body did not arrive within {self._seconds:g} s: send it at once") from error
        if content and (encoding := _encoding(headers)) != IDENTITY:
            content = decompress(content, encoding, self._max_bytes)
            share.resize(len(content))
        return content

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive, share: BodyShare) -> bytes | None:
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_bytes:
            # A client that waits for "100 Continue" has sent nothing yet.
            if headers.get(b"expect", b"").lower() != b"100-continue":
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


class BodyLimitMiddleware:
    """Read the whole body before calling the app; `budget` holds its bytes until the app has answered."""

    def __init__(self, app: ASGIApp, *, reader: BodyReader, budget: BodyBudget) -> None:
        self._app = app
        self._reader = reader
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on in one message, decompressed, or answer 400, 408, 413, 415 or 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with BodyShare(self._budget) as share:
            try:
                content = await self._reader.read(scope, receive, share)
            except ServiceError as error:
                await error_response(error, scope)(scope, receive, send)
                return
            if content is None:
                return
            if content and _encoding(first_values(scope)) != IDENTITY:
                outdated = (b"content-encoding", b"content-length")
                kept = [header for header in scope["headers"] if header[0] not in outdated]
                scope["headers"] = [*kept, (b"content-length", str(len(content)).encode())]
            body = {"type": "http.request", "body": content, "more_body": False}
            await self._app(scope, _replay(body, receive), send)


def _encoding(headers: Mapping[bytes, bytes]) -> str:
    encoding = headers.get(b"content-encoding")
    return IDENTITY if encoding is None else text_of(encoding).strip().lower()


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
