"""What a route works with: one object, made by `create_app` and kept on the app's state."""

import asyncio
import threading
from typing import Annotated

from fastapi import Depends, Request

from service.batcher import Batcher
from service.catalog import Catalog
from service.disagreements import Disagreements
from service.experiments import Experiments
from service.metrics import Metrics
from service.settings import Settings
from service.shutdown import Drain


class Service:
    """The parts of one running service."""

    def __init__(self, settings: Settings, drain: Drain) -> None:
        self.settings = settings
        self.drain = drain
        self.metrics = Metrics()
        self.catalog = Catalog(settings, self.metrics)
        self.batcher = Batcher(
            concurrency=settings.concurrent_batches,
            budget=settings.max_batch_tokens,
            max_seconds=settings.max_batch_seconds,
            max_padding=settings.max_padding,
            window_seconds=settings.batch_window_seconds,
            max_items=settings.max_waiting_inputs,
            max_tokens=settings.max_waiting_tokens,
            metrics=self.metrics,
        )
        self.disagreements = Disagreements(
            settings.disagreements_url,
            most=settings.disagreements_most,
            days=settings.disagreements_days,
            metrics=self.metrics,
        )
        self.experiments = Experiments(
            settings.experiments,
            catalog=self.catalog,
            batcher=self.batcher,
            disagreements=self.disagreements,
            keep_texts=settings.disagreements_texts,
            metrics=self.metrics,
        )
        self.metrics.ready.set_function(lambda: self.reason_not_ready() is None)
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Load the models aside, so that probes and pages answer meanwhile."""
        self._loading = asyncio.create_task(asyncio.to_thread(self.catalog.refresh))
        self._watching = threading.Thread(target=self.catalog.watch, name="store-watch", daemon=True)
        self._loading.add_done_callback(lambda _: self._watching.start())

    async def loaded(self) -> None:
        """Wait until every bundle is served or refused."""
        if self._loading:
            await self._loading

    async def stop(self) -> None:
        """Stop loading and take no more work."""
        self.catalog.close()
        self.experiments.close()
        await asyncio.to_thread(self.batcher.close)
        await self.loaded()
        await asyncio.to_thread(self.disagreements.close)

    def reason_not_ready(self) -> str | None:
        """Why traffic should go elsewhere; None when every task's default variant can answer."""
        return "the service is shutting down" if self.drain.draining else self.catalog.reason_not_ready()


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(_service_of)]
