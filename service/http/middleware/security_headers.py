"""Headers that tell a browser to do with an answer what the client meant, and nothing else."""

from typing import Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware

# An answer's own header goes first: the pages, which are to be looked at, bring their own policy and caching.
PRESETS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Predictions tell of the texts; what is not named otherwise is kept by nobody on the way.
    "Cache-Control": "no-store",
}
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
ANSWER_HEADERS: Final = ("Inference-Header-Content-Length", "Retry-After", "Server-Timing", "X-Request-Id")
PREFLIGHT_SECONDS: Final = 600


def protect(headers: MutableHeaders) -> None:
    """Add the headers that an answer does not have."""
    for name, value in PRESETS.items():
        headers.setdefault(name, value)


def allow_origins(app: FastAPI, origins: list[str]) -> None:
    """Let pages of these origins call the app from a browser; without any, browsers keep every other page out.

    Cookies are not allowed: there are none, and a key is sent by the page itself.
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
