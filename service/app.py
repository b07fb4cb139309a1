"""The composition root: builds the FastAPI app from the core, the protocols and the middlewares."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from sparserve.service.api import (
    admin,
    classify,
    compare,
    experiments,
    health,
    models,
    pages,
    report,
)
from sparserve.service.api.dialects import (
    hugging_face,
    moderations,
    open_inference,
    rerank,
    text_embeddings,
    vllm_classify,
)
from sparserve.service.core import ServingCore
from sparserve.service.drain import Drain
from sparserve.service.http.fast_path import FastPath
from sparserve.service.http.middleware.authorization import AuthorizationMiddleware, RequestAuthorization
from sparserve.service.http.middleware.body_limit import BodyLimitMiddleware, BodyReader
from sparserve.service.http.middleware.disconnect import DisconnectMiddleware
from sparserve.service.http.middleware.path_normalization import PathNormalizationMiddleware, remove_prefix
from sparserve.service.http.middleware.request_log import RequestLogging, RequestLogMiddleware
from sparserve.service.http.middleware.security_headers import SecurityHeadersMiddleware, allow_origins
from sparserve.service.http.openapi import install_openapi
from sparserve.service.http.problems import install_error_mapping
from sparserve.service.limits import BodyBudget
from sparserve.service.observability.request_log import RequestLog
from sparserve.service.security.api_keys import Keyring
from sparserve.service.security.authorizer import Authorizer
from sparserve.service.security.rate_limit import RateLimiter
from sparserve.service.settings import Settings
from sparserve.service.version import VERSION

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

    from sparserve.service.observability.tracing import RequestTracer
    from sparserve.service.peers import Peers

# By default FastAPI follows environment variables and sends the messages of exceptions, which may repeat a text.
NO_TELEMETRY: "TelemetryConfig" = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
# One protocol, or one group of routes, per module.
PROTOCOLS: Final = (
    classify,
    compare,
    experiments,
    hugging_face,
    text_embeddings,
    rerank,
    vllm_classify,
    moderations,
    open_inference,
    models,
    report,
    health,
    pages,
    admin,
)


class ServiceApp(FastAPI):
    """FastAPI app with a fast path in front of it."""

    fast_path: FastPath | None = None
    prefix: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on the fast path if it can, else as FastAPI does."""
        if self.prefix and scope["type"] == "http":
            remove_prefix(scope, self.prefix)
        if self.fast_path is not None and (target := self.fast_path.find(scope)) is not None:
            await self.fast_path.answer(target, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    drain: Drain | None = None,
    tracer: "RequestTracer | None" = None,
    peers: "Peers | None" = None,
    *,
    fast_path: bool = True,
) -> FastAPI:
    """Return the service as an ASGI app. It loads the store's models once its lifespan has started.

    Traces are sent to `tracer`, by default to the collector in the settings, if there is one. `peers` are the other
    processes of the service; without them it is this process alone, whatever the setting `workers` says. Without
    `fast_path` FastAPI handles every request, with the same answers in more time.
    """
    settings = settings or Settings()
    core = ServingCore(settings, drain or Drain(), peers)
    tracer = tracer or _new_tracer(settings)
    authorizer = Authorizer(
        Keyring(settings.keys_file) if settings.keys_file else None,
        anonymous_rate=settings.anonymous_rate,
        admin_without_key=settings.admin_without_key,
        metrics_need_key=settings.metrics_need_key,
        origins=settings.cors_origins,
        limiter=RateLimiter(peers.folder if peers else None),
    )
    bodies = BodyBudget(settings.max_bodies_bytes, core.metrics.requests.shed.labels("bodies").inc)
    log = RequestLog(core.metrics, addresses=settings.log_client_address)
    authorization = RequestAuthorization(authorizer, core.metrics)
    reader = BodyReader(max_bytes=settings.max_body_bytes, seconds=settings.receive_timeout_seconds)
    logging = RequestLogging(log=log, drain=core.drain, tracer=tracer)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:  # closes all of them, even if one raises
            if tracer:
                closing.push_async_callback(asyncio.to_thread, tracer.close)
            if peers:
                await peers.join(core)
                closing.push_async_callback(peers.leave)
            core.start()
            closing.push_async_callback(core.stop)
            if settings.grpc_port is not None:
                from sparserve.service.grpc_api.server import GrpcServer

                server = app.state.grpc_server = GrpcServer(
                    core, authorizer=authorizer, bodies=bodies, log=log, tracer=tracer
                )
                await server.start()
                closing.push_async_callback(server.stop)
            if peers:
                await peers.listening()
            yield

    # FastAPI's own documentation pages load scripts from other hosts; `pages` has one that does not.
    app = ServiceApp(
        title="sparserve",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracer.telemetry() if tracer else NO_TELEMETRY,
    )
    app.state.service = core
    app.prefix = settings.root_path
    install_error_mapping(app, open_inference.PROBLEM_MEDIA_TYPES)
    for protocol in PROTOCOLS:
        app.include_router(protocol.router)
    routes = [route for protocol in PROTOCOLS for route in protocol.router.routes]
    # Innermost first.
    app.add_middleware(DisconnectMiddleware)
    app.add_middleware(BodyLimitMiddleware, reader=reader, budget=bodies)
    app.add_middleware(AuthorizationMiddleware, authorization=authorization)
    allow_origins(app, settings.cors_origins)
    app.add_middleware(PathNormalizationMiddleware)
    app.add_middleware(RequestLogMiddleware, logging=logging)
    app.add_middleware(SecurityHeadersMiddleware)
    # FastAPI makes the span of a traced request.
    if fast_path and tracer is None:
        app.fast_path = FastPath(
            app,
            routes=routes,
            catalog=core.catalog,
            authorization=authorization,
            bodies=reader,
            budget=bodies,
            logging=logging,
        )
    install_openapi(
        app,
        routes,
        root_path=settings.root_path,
        needs_keys=settings.keys_file is not None,
        metrics_need_key=settings.metrics_need_key,
    )
    return app


def _new_tracer(settings: Settings) -> "RequestTracer | None":
    if settings.otlp_endpoint is None:
        return None
    from sparserve.service.observability.tracing import RequestTracer

    return RequestTracer.to(str(settings.otlp_endpoint))
