"""Bodies are read whole before anything else: within their bytes, their time, and the bytes of all bodies together."""

import asyncio
import zlib
from typing import Final, Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.errors import (
    BodyTooLarge,
    ServiceError,
    SlowRequest,
    TooLarge,
    TooManyBodies,
    UnreadableRequest,
    UnsupportedContent,
)
from sparserve.service.http.problems import error_response
from sparserve.service.observability.metrics import Metrics

DISCARDED_FACTOR = 8
# zlib's window bits: its largest window, in gzip's wrapping or in its own, which HTTP calls deflate.
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BodyBudget:
    """The bytes that all bodies may have together, from the first that is read until their requests are answered.

    Only bytes that are there count: a client that announces many and sends none takes nothing from the others.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self.max_bytes = max_bytes
        self.held = 0
        self.metrics = metrics


class BodyShare:
    """One body's part of a budget; the end of `with` gives it back."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def __enter__(self) -> Self:
        """Begin with nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        self.resize(0)

    def resize(self, count: int) -> None:
        """The body has `count` bytes now.

        Raises:
            TooManyBodies: the budget does not have them; the part stays as it was.
        """
        budget, more = self._budget, count - self._bytes
        if more > 0 and budget.held + more > budget.max_bytes:
            budget.metrics.requests.shed.labels("bodies").inc()
            raise TooManyBodies(f"the bodies of all requests have more than {budget.max_bytes} bytes: try again soon")
        budget.held += more
        self._bytes = count


class BodyLimit:
    """ASGI middleware that reads the whole body first and unpacks it: at most `max_bytes`, declared or not.

    It waits for `seconds` at most, and holds the body within `budget` until the app has answered.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float, budget: BodyBudget) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 408, 413 or 503, or pass the body on in one message, as it was before the client packed it."""
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
                    content = unpacked(content, encoding, self._max_bytes)
                    share.resize(len(content))
                    told = (b"content-encoding", b"content-length")
                    kept = [item for item in scope["headers"] if item[0] not in told]
                    scope["headers"] = [*kept, (b"content-length", str(len(content)).encode())]
            except ServiceError as error:
                await error_response(error, scope.get("state", {}).get("request_id"))(scope, receive, send)
                return
            body = {"type": "http.request", "body": content, "more_body": False}
            await self._app(scope, once_more(body, receive), send)

    async def _body(self, headers: Headers, receive: Receive, share: BodyShare) -> bytes | None:
        """What the client sends; None where it goes before that."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._read(headers, receive, share)
        except TimeoutError as error:
            raise SlowRequest(f"the body did not come within {self._seconds:g} s: send it at once") from error

    async def _read(self, headers: Headers, receive: Receive, share: BodyShare) -> bytes | None:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            # A client that waits for "100 Continue" has sent nothing yet, so there is nothing to read away.
            if headers.get("expect", "").lower() != "100-continue":
                await self._discard(receive)
            raise self._too_large()
        content, more = bytearray(), True  # not a list of parts: many short ones would take many times their bytes
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
