"""What a route works with: one object, made by `create_app` and kept on the app's state."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sparserve.service.catalog.catalog import Catalog
from sparserve.service.catalog.operations import Orders
from sparserve.service.drain import Drain
from sparserve.service.experiments.disagreements import Disagreements
from sparserve.service.experiments.traffic import Experiments
from sparserve.service.inference.batcher import Batcher
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Settings

logger = logging.getLogger(__name__)

# Orders that may run at once. They wait for each other, or a while for a store's URL, and never for requests' texts.
ORDERS: Final = 4
# What a bundle that is being loaded, or a database, may take when the service stops.
CLOSE_SECONDS: Final = 5.0
_Result = TypeVar("_Result")


class ServingCore:
    """The parts of one running service."""

    def __init__(self, settings: Settings, drain: Drain) -> None:
        self.settings = settings
        self.drain = drain
        self.metrics = Metrics()
        self.catalog = Catalog(settings, self.metrics)
        self.orders = Orders(self.catalog)
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
        self._ordering = ThreadPoolExecutor(ORDERS, thread_name_prefix="orders")

    def start(self) -> None:
        """Load the models aside, so that probes and pages answer meanwhile."""
        threading.Thread(target=self.catalog.watch, name="store-watch", daemon=True).start()

    async def loaded(self) -> None:
        """Wait until every bundle is served or refused; where the store mirrors a URL, until that has answered."""
        await asyncio.shield(asyncio.wrap_future(self.catalog.loaded))

    async def order(self, work: Callable[[], _Result]) -> _Result:
        """Let the catalog be changed, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._ordering, work)

    async def stop(self) -> None:
        """Stop loading and take no more work; whatever hangs, it takes some seconds at most."""
        self._ordering.shutdown(wait=False, cancel_futures=True)
        self.experiments.close()
        closing = (
            asyncio.to_thread(self.catalog.close, CLOSE_SECONDS),
            asyncio.to_thread(self.batcher.close),
            asyncio.to_thread(self.disagreements.close),
        )
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.error("the service did not stop as it should", exc_info=outcome)

    def reason_not_ready(self) -> str | None:
        """Why traffic should go elsewhere; None when every task's default variant can answer."""
        return "the service is shutting down" if self.drain.draining else self.catalog.reason_not_ready()
