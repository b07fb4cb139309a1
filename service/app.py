"""The FastAPI app, wired together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.context import Service
from service.errors import install_error_mapping
from service.limits import BodyLimit
from service.observation import RequestObserver
from service.openapi import describe
from service.routes import (
    classify,
    compare,
    health,
    hugging_face,
    models,
    open_inference,
    pages,
    report,
    text_embeddings,
)
from service.settings import Settings
from service.shutdown import Drain
from service.version import VERSION


def create_app(settings: Settings | None = None, drain: Drain | None = None) -> FastAPI:
    """The service as an ASGI app; it loads the store's models once its lifespan has begun."""
    service = Service(settings or Settings(), drain or Drain())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    # FastAPI's own pages of documentation load scripts from elsewhere; `pages` has one that does not.
    app = FastAPI(title="sparserve", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    install_error_mapping(app)
    for routes in (classify, compare, hugging_face, text_embeddings, open_inference, models, report, health, pages):
        app.include_router(routes.router)
    app.include_router(text_embeddings.probes)
    app.add_middleware(BodyLimit, max_bytes=service.settings.max_body_bytes)
    app.add_middleware(RequestObserver, metrics=service.metrics, drain=service.drain)
    describe(app)
    return app
