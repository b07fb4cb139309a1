"""Middleware that cancels requests whose client has disconnected."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WATCH: Final = "disconnect_watch"


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
        try:
            async with asyncio.timeout(None) as timeout:
                watch = scope.setdefault("state", {})[_WATCH] = _Watch(receive, timeout)
                try:
                    await self._app(scope, receive, send)
                finally:
                    watch.stop()
        except TimeoutError:
            if not timeout.expired():
                raise


def cancel_on_disconnect(request: Request) -> None:
    """Cancel this request once its client disconnects. Call it after the whole body has been read."""
    watch: _Watch | None = getattr(request.state, _WATCH, None)
    if watch is not None:
        watch.start()


class _Watch:
    """Task that waits for a client's disconnect and then expires the request's timeout."""

    def __init__(self, receive: Receive, timeout: asyncio.Timeout) -> None:
        self._receive = receive
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._expire_on_disconnect())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _expire_on_disconnect(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._timeout.reschedule(0)  # long ago on the loop's clock: expires at once
