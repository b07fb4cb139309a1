"""Request options as HTTP headers."""

import math
from typing import Any, Final

from fastapi import Request
from starlette.types import Scope

from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest
from sparserve.service.http.headers import first_values, text_of
from sparserve.service.types import RequestOptions

TIMEOUT_HEADER: Final = "X-Request-Timeout"
ROUTING_KEY_HEADER: Final = "X-Routing-Key"
ROUTING_KEY_MAX_CHARACTERS: Final = 256
_RAW_TIMEOUT: Final = TIMEOUT_HEADER.lower().encode()
_RAW_ROUTING_KEY: Final = ROUTING_KEY_HEADER.lower().encode()
# Name of the options in the state of a request, once they have been read.
_OPTIONS: Final = "options"
HEADER_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "required": False,
        "description": "seconds, from the request's arrival, that the answer may take",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": ROUTING_KEY_HEADER,
        "in": "header",
        "required": False,
        "description": "requests with the same key, such as a user's id, are answered by the same variant of a split",
        "schema": {"type": "string", "maxLength": ROUTING_KEY_MAX_CHARACTERS},
    },
]


async def read_request_options(request: Request) -> RequestOptions:
    """Read the options from the request's headers.

    The headers are not parameters of this function: FastAPI would spend more time on them in each request than this
    function takes. `openapi` declares `HEADER_PARAMETERS` instead.

    Raises:
        InvalidRequest: as in `request_options`.
    """
    service: ServingCore = request.app.state.service
    return request_options(request.scope, service.settings.request_timeout_seconds)


def request_options(scope: Scope, limit_seconds: float | None) -> RequestOptions:
    """Return the options of a request, which has at most `limit_seconds`; they are read once.

    Raises:
        InvalidRequest: the timeout is not a number of seconds above 0, or the routing key is too long.
    """
    state = scope["state"]
    known: RequestOptions | None = state.get(_OPTIONS)
    if known is not None:
        return known
    headers = first_values(scope)
    routing_key, timeout = headers.get(_RAW_ROUTING_KEY), headers.get(_RAW_TIMEOUT)
    if routing_key is not None:
        check_routing_key(text_of(routing_key))
    seconds = limit_seconds
    if timeout is not None:
        seconds = min(_seconds(text_of(timeout)), math.inf if limit_seconds is None else limit_seconds)
    arrived = state["arrived"]
    options = state[_OPTIONS] = RequestOptions(
        # The client has been waiting since it sent the head; the body may have arrived much later.
        deadline=None if seconds is None else arrived + seconds,
        routing_key=None if routing_key is None else text_of(routing_key),
        request_id=state.get("request_id"),
        client=state.get("client", ""),
        weight=state.get("weight", 1.0),
        arrived=arrived,
    )
    return options


def check_routing_key(routing_key: str) -> str:
    """Return the routing key.

    Raises:
        InvalidRequest: it is too long.
    """
    if len(routing_key) > ROUTING_KEY_MAX_CHARACTERS:
        raise InvalidRequest(f"{ROUTING_KEY_HEADER}: give {ROUTING_KEY_MAX_CHARACTERS} characters at most")
    return routing_key


def _seconds(timeout: str) -> float:
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{TIMEOUT_HEADER}: give a number of seconds above 0, such as 0.5")
    return seconds
