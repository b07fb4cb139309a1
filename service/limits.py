"""Requests that are too large are refused early: by bytes before parsing, then by items and characters."""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyTooLarge,
    ServiceError,
    SlowRequest,
    TooLarge,
    UnreadableRequest,
    UnsupportedContent,
    error_response,
)
from service.schemas import TextInput
from service.settings import Settings

DISCARDED_FACTOR = 8
# zlib's window bits: its largest window, in gzip's wrapping or in its own, which HTTP calls deflate.
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BodyLimit:
    """ASGI middleware that reads the whole body first and unpacks it: at most `max_bytes`, declared or not.

    It waits for `seconds` at most.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 408 or 413, or pass the body on in one message, as it was before the client packed it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            content = await self._body(headers, receive)
            if content is None:
                return
            encoding = headers.get("content-encoding", "identity").strip().lower()
            if content and encoding != "identity":
                content = unpacked(content, encoding, self._max_bytes)
                kept = [item for item in scope["headers"] if item[0] not in (b"content-encoding", b"content-length")]
                scope["headers"] = [*kept, (b"content-length", str(len(content)).encode())]
        except ServiceError as error:
            await error_response(error, scope.get("state", {}).get("request_id"))(scope, receive, send)
            return
        body = {"type": "http.request", "body": content, "more_body": False}
        await self._app(scope, once_more(body, receive), send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """What the client sends; None where it goes before that."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._read(headers, receive)
        except TimeoutError as error:
            raise SlowRequest(f"the body did not come within {self._seconds:g} s: send it at once") from error

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            # A client that waits for "100 Continue" has sent nothing yet, so there is nothing to read away.
            if headers.get("expect", "").lower() != "100-continue":
                await self._discard(receive)
            raise self._too_large()
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > self._max_bytes:
                if more:
                    await self._discard(receive)
                raise self._too_large()
        return b"".join(chunks)

    async def _discard(self, receive: Receive) -> None:
        # A client that is still sending reads no answer: closing at once would show it a broken connection.
        discarded, more = 0, True
        while more and discarded < DISCARDED_FACTOR * self._max_bytes:
            message = await receive()
            discarded += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body has more than {self._max_bytes} bytes: send fewer inputs at a time")


def once_more(message: Message, receive: Receive) -> Receive:
    """A `receive` that gives first a message that was received already."""
    read = False

    async def replay() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return message

    return replay


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before it was packed as its Content-Encoding says; never more than `limit` bytes are made.

    Raises:
        UnsupportedContent: the encoding is neither gzip nor deflate.
        UnreadableRequest: the body is not of that encoding, or not whole.
        TooLarge: it has more than `limit` bytes once unpacked.
    """
    if encoding not in _WINDOW_BITS:
        raise UnsupportedContent("this Content-Encoding is not supported: send gzip, deflate or the body as it is")
    unpacker = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
    try:
        found = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise UnreadableRequest(f"the body is not {encoding}, as its Content-Encoding says") from error
    if len(found) > limit:
        raise TooLarge(f"the body has more than {limit} bytes once unpacked: send fewer inputs at a time")
    if not unpacker.eof:
        raise UnreadableRequest(f"the body is not whole {encoding}: its end is missing")
    if unpacker.unused_data:
        raise UnreadableRequest(f"the body goes on after the end of its {encoding}: send one stream")
    return found


def check_size(inputs: Sequence[TextInput], settings: Settings) -> None:
    """Refuse more inputs, or longer ones, than the settings allow.

    Raises:
        TooLarge: naming the limit and the first input over it.
    """
    if len(inputs) > settings.max_items:
        raise TooLarge(f"the request has {len(inputs)} inputs, the limit is {settings.max_items}: send it in parts")
    for position, item in enumerate(inputs):
        if item.characters > settings.max_characters:
            raise TooLarge(
                f"item {position} has {item.characters} characters, the limit is {settings.max_characters}: shorten it"
            )
