"""How long a client waits for its answer: nothing is computed that would come later."""

import math
import time
from typing import Annotated, Final

from fastapi import Depends, Header

from service.context import ServiceDependency
from service.errors import InvalidRequest

HEADER: Final = "X-Request-Timeout"


def deadline_of(
    service: ServiceDependency,
    timeout: Annotated[
        str | None, Header(alias=HEADER, description="seconds, from the request's arrival, that the answer may take")
    ] = None,
) -> float | None:
    """When the answer has to be there, on the performance counter; None for no limit.

    Raises:
        InvalidRequest: the header is not a number of seconds above 0.
    """
    limits = [service.settings.request_timeout_seconds] if service.settings.request_timeout_seconds else []
    if timeout is not None:
        try:
            seconds = float(timeout)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InvalidRequest(f"{HEADER}: give a number of seconds above 0, such as 0.5")
        limits.append(seconds)
    return time.perf_counter() + min(limits) if limits else None


DeadlineDependency = Annotated[float | None, Depends(deadline_of)]
