"""What a request says besides its body: how long its client waits, and who it is for.

Nothing is computed that would come later than the client waits for.
"""

import math
import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Self

from fastapi import Depends, Request

from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest
from sparserve.service.http.problems import request_id_of

TIMEOUT: Final = "X-Request-Timeout"
ROUTING_KEY: Final = "X-Routing-Key"
LONGEST_ROUTING_KEY: Final = 256
HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": TIMEOUT,
        "in": "header",
        "required": False,
        "description": "seconds, from the request's arrival, that the answer may take",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": ROUTING_KEY,
        "in": "header",
        "required": False,
        "description": "requests with the same key, such as a user's id, are answered by the same variant of a split",
        "schema": {"type": "string", "maxLength": LONGEST_ROUTING_KEY},
    },
]


@dataclass(frozen=True)
class Caller:
    """A client's wishes: `deadline` and `arrived` are on the performance counter; None for no limit, or no key."""

    deadline: float | None = None
    routing_key: str | None = None
    request_id: str | None = None
    arrived: float = field(default_factory=time.perf_counter)

    def within(self, seconds: float) -> Self:
        """The same, with the deadline so many seconds after the request's arrival if that is sooner."""
        latest = self.arrived + seconds
        return replace(self, deadline=latest if self.deadline is None else min(self.deadline, latest))


async def caller_of(request: Request) -> Caller:
    """Read the headers.

    FastAPI would declare them to OpenAPI if they were arguments, and spend more time on each request than all that is
    done here: `openapi` declares `HEADERS`.

    Raises:
        InvalidRequest: the timeout is not a number of seconds above 0, or the routing key is too long.
    """
    routing_key, timeout = request.headers.get(ROUTING_KEY), request.headers.get(TIMEOUT)
    if routing_key is not None and len(routing_key) > LONGEST_ROUTING_KEY:
        raise InvalidRequest(f"{ROUTING_KEY}: give {LONGEST_ROUTING_KEY} characters at most")
    # The body may have been long in coming; its client has waited since the head.
    arrived: float = request.state.arrived
    caller = Caller(routing_key=routing_key, request_id=request_id_of(request), arrived=arrived)
    service: ServingCore = request.app.state.service
    if service.settings.request_timeout_seconds is not None:
        caller = caller.within(service.settings.request_timeout_seconds)
    if timeout is None:
        return caller
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{TIMEOUT}: give a number of seconds above 0, such as 0.5")
    return caller.within(seconds)


CallerDependency = Annotated[Caller, Depends(caller_of)]
