"""FastAPI dependencies of the routes."""

from typing import Annotated

from fastapi import Depends, Request

from sparserve.service.core import ServingCore


async def _serving_core(request: Request) -> ServingCore:
    core: ServingCore = request.app.state.service
    return core


ServiceDependency = Annotated[ServingCore, Depends(_serving_core)]
