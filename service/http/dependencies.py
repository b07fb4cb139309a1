"""FastAPI dependencies of the routes."""

from typing import Annotated

from fastapi import Depends, Request

from sparserve.service.core import ServingCore
from sparserve.service.http.request_options import read_request_options
from sparserve.service.types import RequestOptions


async def _serving_core(request: Request) -> ServingCore:
    core: ServingCore = request.app.state.service
    return core


ServiceDependency = Annotated[ServingCore, Depends(_serving_core)]
OptionsDependency = Annotated[RequestOptions, Depends(read_request_options)]
