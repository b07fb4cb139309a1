"""Security headers of answers, and CORS."""

from typing import Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Defaults: an answer's own headers take precedence. The pages set their own policy and caching.
DEFAULT_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Predictions disclose something of the texts: no cache may keep them.
    "Cache-Control": "no-store",
}
RAW_DEFAULT_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in DEFAULT_HEADERS.items()]
REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Inference-Header-Content-Length",
    "X-Api-Key",
    "X-Request-Id",
    "X-Request-Timeout",
    "X-Routing-Key",
)
ANSWER_HEADERS: Final = (
    "Inference-Header-Content-Length",
    "Retry-After",
    "Server-Timing",
    "X-Request-Id",
    "X-Sparserve-Warning",
)
PREFLIGHT_SECONDS: Final = 600


class SecurityHeadersMiddleware:
    """Add the security headers that an answer does not have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app and complete its headers."""

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, protected)


def add_security_headers(headers: MutableHeaders) -> None:
    """Add the headers that an answer does not have."""
    for name, value in DEFAULT_HEADERS.items():
        headers.setdefault(name, value)


def allow_origins(app: FastAPI, origins: list[str]) -> None:
    """Let web pages of these origins call the app from a browser; browsers block all others.

    Cookies are not allowed: the service has none, and a page sends the key itself.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )
