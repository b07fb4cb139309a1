"""Middleware that cancels requests whose client has disconnected."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WATCH: Final = "disconnect_watch"
# Name, in the state of a request, of its server's function that registers a callback for the client's disconnect, or
# None to end the watch. Without it, as in other servers, a task waits for the message of the disconnect.
WATCH_DISCONNECT: Final = "watch_disconnect"
WatchDisconnect = Callable[[Callable[[], object] | None], object]


class DisconnectMiddleware:
    """Cancel a request that has called `cancel_on_disconnect` once its client closes the connection.

    A cancelled request leaves the queue, and nothing more is computed for it. Other requests, such as those that change
    the models served, run to their end. A client that closes only its sending side gets no answer: HTTP/1.1 cannot
    distinguish the two.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app until it has answered or the client has disconnected."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with DisconnectScope(scope, receive) as watch:
            scope["state"][_WATCH] = watch
            await self._app(scope, receive, send)


def cancel_on_disconnect(request: Request) -> None:
    """Cancel this request once its client disconnects. Call it after the whole body has been read."""
    watch: DisconnectScope | None = getattr(request.state, _WATCH, None)
    if watch is not None:
        watch.start()


class DisconnectScope:
    """Context that ends at once, without an exception, when the request's client disconnects after `start`.

    The server's connection calls back, or a task waits for the message. This is `asyncio.timeout` with another cause.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._watch_connection: WatchDisconnect | None = scope.setdefault("state", {}).get(WATCH_DISCONNECT)
        self._request = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._started = False
        self._disconnected = False

    def __enter__(self) -> Self:
        """Begin the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End the watch, and suppress the cancellation that it caused."""
        if self._started and self._watch_connection is not None:
            self._watch_connection(None)
        elif self._watch is not None:
            self._watch.cancel()
        if not self._disconnected:
            return False
        assert self._request is not None
        others = self._request.uncancel()
        return kind is asyncio.CancelledError and not others

    def start(self) -> None:
        """Begin to watch. Call it after the whole body has been read."""
        if self._started:
            return
        self._started = True
        if self._watch_connection is not None:
            self._watch_connection(self._cancel)
        else:
            self._watch = asyncio.create_task(self._cancel_on_disconnect())

    async def _cancel_on_disconnect(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._cancel()

    def _cancel(self) -> None:
        assert self._request is not None
        self._disconnected = True
        self._request.cancel()
