"""What clients take for granted: HEAD wherever there is GET, all methods in Allow, a last slash that means nothing.

And what no client needs: paths with unprintable characters.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.errors import UnknownResource
from sparserve.service.http.problems import error_response


class HeadAndSlash:
    """ASGI middleware; whatever decides by the path stands behind it, so that no spelling leads around it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as GET, or under its path without the slash."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # No resource has any in its name, and a route's pattern ends before a last line's end: what decides by the path
        # would see another one than the router does.
        if not scope["path"].isprintable():
            error = UnknownResource("there is nothing under a path with unprintable characters")
            await error_response(error, scope.get("state", {}).get("request_id"))(scope, receive, send)
            return
        # A redirection would lose the body, or the key, of many a client.
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
            scope["raw_path"] = scope["path"].encode()
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # A copy: the server looks into its own to know that it must send no body.
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, without_body)
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]
