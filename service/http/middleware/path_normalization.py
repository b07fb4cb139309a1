"""Middleware that maps equivalent requests to one: HEAD to GET, and a path with a trailing slash to the one without."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.errors import UnknownResource
from sparserve.service.http.problems import error_response


def remove_prefix(scope: Scope, prefix: str) -> None:
    """Remove the path prefix of a reverse proxy, unless the proxy has done so.

    The prefix without a slash becomes the path `/` with an empty `raw_path`. The scope's `root_path` stays empty:
    starlette would remove the prefix a second time, from a path that has it twice and has been checked already.
    """
    path: str = scope["path"]
    if path == prefix or path.startswith(f"{prefix}/"):
        rest = path[len(prefix) :]
        scope["path"], scope["raw_path"] = rest or "/", rest.encode()


class PathNormalizationMiddleware:
    """Normalise method and path before anything decides by them, so that no spelling evades a check."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as GET, or under its path without the slash."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # No resource has such a name. A route's pattern also matches before a final line break, so a check of the path
        # and the router would see different paths.
        if not scope["path"].isprintable():
            error = UnknownResource("no path has unprintable characters")
            await error_response(error, scope)(scope, receive, send)
            return
        # Many clients lose the body or the key when they follow a redirect.
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
            scope["raw_path"] = scope["path"].encode()
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # A copy: the server reads the method in its scope to know that it must send no body.
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, without_body)
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]
