"""A request whose client has gone is given up: it leaves the queue, and nothing more is computed for it."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from sparserve.service.http.middleware.authorization import CLASSIFY, scopes_for
from sparserve.service.http.middleware.body_limit import once_more


class Disconnects:
    """ASGI middleware that ends requests to classify once their client has closed its side of the connection.

    So a client that closes only its sending side gets no answer: HTTP/1.1 cannot tell the two apart. Requests that
    change what is served go on to their end. It belongs inside of `BodyLimit`, which passes the body in one message.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app until it has answered or the client has gone."""
        if scope["type"] != "http" or scopes_for(scope["method"], scope["path"]) != CLASSIFY:
            await self._app(scope, receive, send)
            return
        body = await receive()
        try:
            async with asyncio.timeout(None) as patience:
                watch = asyncio.create_task(_end_when_gone(receive, patience))
                try:
                    await self._app(scope, once_more(body, receive), send)
                finally:
                    watch.cancel()
        except TimeoutError:
            if not patience.expired():
                raise


async def _end_when_gone(receive: Receive, patience: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    patience.reschedule(0)  # long past on the loop's clock: what runs under it is cancelled
