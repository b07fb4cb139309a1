"""FastAPI dependencies of the routes."""

from typing import Annotated

from fastapi import Depends, Request

from sparserve.service.core import ServingCore
from sparserve.service.http.request_options import read_request_options
from sparserve.service.types import RequestOptions


async def serving_core(request: Request) -> ServingCore:
    """Return the core."""
    core: ServingCore = request.app.state.service
    return core


ServiceDependency = Annotated[ServingCore, Depends(serving_core)]
OptionsDependency = Annotated[RequestOptions, Depends(read_request_options)]
