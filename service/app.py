"""The FastAPI app, wired together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from sparserve.service.api import (
    admin,
    classify,
    compare,
    experiments,
    health,
    hugging_face,
    models,
    open_inference,
    pages,
    report,
    text_embeddings,
)
from sparserve.service.core import ServingCore
from sparserve.service.drain import Drain
from sparserve.service.http.middleware.authorization import Access
from sparserve.service.http.middleware.body_limit import BodyBudget, BodyLimit
from sparserve.service.http.middleware.disconnect import Disconnects
from sparserve.service.http.middleware.path_normalization import HeadAndSlash
from sparserve.service.http.middleware.request_log import RequestObserver
from sparserve.service.http.middleware.security_headers import allow_origins
from sparserve.service.http.openapi import describe
from sparserve.service.http.problems import install_error_mapping
from sparserve.service.settings import Settings
from sparserve.service.version import VERSION

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

    from sparserve.service.grpc_api.server import GrpcServer
    from sparserve.service.observability.tracing import RequestTracer

# FastAPI would else follow variables of the environment, and send the messages of exceptions, which may repeat a text.
NO_TELEMETRY: "TelemetryConfig" = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(
    settings: Settings | None = None, drain: Drain | None = None, tracer: "RequestTracer | None" = None
) -> FastAPI:
    """The service as an ASGI app; it loads the store's models once its lifespan has begun.

    Traces go to `tracer`, by default to the collector that the settings name, if they do.
    """
    service = ServingCore(settings or Settings(), drain or Drain())
    tracer = tracer or _tracer_to(service.settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as ending:  # each of these, whatever the others raise
            if tracer:
                ending.push_async_callback(asyncio.to_thread, tracer.close)
            service.start()
            ending.push_async_callback(service.stop)
            if grpc_server := await _grpc_server(app, service):
                ending.push_async_callback(grpc_server.stop)
            yield

    # FastAPI's own pages of documentation load scripts from elsewhere; `pages` has one that does not.
    app = FastAPI(
        title="sparserve",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracer.telemetry() if tracer else NO_TELEMETRY,
    )
    app.state.service = service
    install_error_mapping(app)
    for routes in (
        classify,
        compare,
        experiments,
        hugging_face,
        text_embeddings,
        open_inference,
        models,
        report,
        health,
        pages,
    ):
        app.include_router(routes.router)
    for routes_aside in (text_embeddings.probes, admin.router, admin.promotion):
        app.include_router(routes_aside)
    app.add_middleware(Disconnects)
    app.add_middleware(
        BodyLimit,
        max_bytes=service.settings.max_body_bytes,
        seconds=service.settings.receive_timeout_seconds,
        budget=BodyBudget(service.settings.max_bodies_bytes, service.metrics),
    )
    app.add_middleware(Access, settings=service.settings, metrics=service.metrics)
    allow_origins(app, service.settings.cors_origins)
    app.add_middleware(HeadAndSlash)
    app.add_middleware(
        RequestObserver,
        metrics=service.metrics,
        drain=service.drain,
        addresses=service.settings.log_client_address,
        tracer=tracer,
    )
    describe(app, service.settings)
    return app


async def _grpc_server(app: FastAPI, service: ServingCore) -> "GrpcServer | None":
    if service.settings.grpc_port is None:
        return None
    from sparserve.service.grpc_api.server import GrpcServer

    server = app.state.grpc_server = GrpcServer(app, service.settings, service.drain)
    await server.start()
    return server


def _tracer_to(settings: Settings) -> "RequestTracer | None":
    if settings.otlp_endpoint is None:
        return None
    from sparserve.service.observability.tracing import RequestTracer

    return RequestTracer.to(str(settings.otlp_endpoint))
