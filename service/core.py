"""The serving core: classify, compare, and change the models that are served. It knows no protocol."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sparserve.models.bundle.long_texts import WindowLimits
from sparserve.models.bundle.store import Store
from sparserve.service.catalog.bundle_loader import BundleLoader
from sparserve.service.catalog.catalog import Catalog
from sparserve.service.catalog.overrides import CatalogChange
from sparserve.service.drain import Drain
from sparserve.service.errors import InferenceFailed, InvalidRequest
from sparserve.service.experiments.comparison import Comparison, compare
from sparserve.service.experiments.disagreements import Disagreements
from sparserve.service.experiments.ledger import ExperimentLedger
from sparserve.service.experiments.traffic import Experiments, Route
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.classification import Classification, classify
from sparserve.service.inference.engine import Engine
from sparserve.service.inference.runtime_measurement import RuntimeMeasurements
from sparserve.service.limits import check_size
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Settings
from sparserve.service.types import DEFAULT_LONG_TEXTS, LongTextOptions, RequestOptions, TextInput

if TYPE_CHECKING:
    from sparserve.service.peers import Peers

logger = logging.getLogger(__name__)

# Catalog changes run on these threads. They wait for each other or for a store's URL, never for inference.
ADMIN_THREADS: Final = 4
# Limit on the wait for a bundle that is loading, or for a database, when the service stops.
CLOSE_SECONDS: Final = 5.0
# The variant that a comparison uses as its reference if none is named.
REFERENCE_VARIANT: Final = "dense"
_Result = TypeVar("_Result")


class ServingCore:
    """One running service, or one of its processes; protocols are adapters that translate to and from its methods.

    Args:
        settings: those of this process: its part of the limits of a service of several.
        drain: state of the shutdown.
        peers: the other processes, if there are any.
    """

    def __init__(self, settings: Settings, drain: Drain, peers: "Peers | None" = None) -> None:
        self.settings = settings
        self.drain = drain
        self.peers = peers
        self.metrics = Metrics(peers.folder if peers else None)
        store = Store(settings.store)
        self.catalog = Catalog(
            store,
            loader=BundleLoader(
                store,
                threads=settings.threads_per_session,
                sample_tolerance=settings.sample_tolerance,
                runtime=settings.runtime,
                measurements=RuntimeMeasurements(peers.folder if peers else None),
                max_model_bytes=settings.max_model_bytes,
                metrics=self.metrics,
            ),
            url=settings.store_url,
            pins=settings.pins,
            watch_seconds=settings.watch_seconds,
            metrics=self.metrics,
        )
        self.batcher = Batcher(
            concurrency=settings.concurrent_batches,
            budget=settings.max_batch_tokens,
            max_seconds=settings.max_batch_seconds,
            max_padding=settings.max_padding,
            max_items=settings.max_waiting_inputs,
            max_tokens=settings.max_waiting_tokens,
            window_limits=WindowLimits(text=settings.max_windows, request=settings.max_items),
            metrics=self.metrics,
        )
        self.disagreements = Disagreements(
            settings.disagreements_url,
            capacity=settings.disagreements_most,
            days=settings.disagreements_days,
            metrics=self.metrics,
        )
        self.experiments = Experiments(
            peers.ledger if peers else ExperimentLedger(settings.experiments, self.metrics.experiments),
            catalog=self.catalog,
            batcher=self.batcher,
            disagreements=self.disagreements,
            keep_texts=settings.disagreements_texts,
        )
        self.metrics.ready.set_function(lambda: self.reason_not_ready() is None)
        self._admin_threads = ThreadPoolExecutor(ADMIN_THREADS, thread_name_prefix="admin")

    async def classify(
        self,
        task: str,
        variant: str | None,
        inputs: Sequence[TextInput],
        options: RequestOptions,
        *,
        long_texts: LongTextOptions = DEFAULT_LONG_TEXTS,
    ) -> Classification:
        """Classify inputs.

        Without a variant the task's default answers, or, for a share of the requests, the candidate of its experiment.

        Raises:
            UnknownResource, Unavailable, TooLarge, InvalidRequest, Overloaded, DeadlineExceeded, InferenceFailed: as
                described there.
        """
        started = time.perf_counter()
        if variant is None:
            route = self.experiments.route(task, options.routing_key)
        else:
            route = Route(self.catalog.engine(task, variant))
        self._check_size(inputs)
        self._check_kind(route.engine, inputs)
        try:
            result = await self._run(route.engine, inputs, options, long_texts, started)
            if route.experiment is not None:
                self.experiments.compare(task, route, inputs, result, options.request_id)
        except InferenceFailed:
            default = self.experiments.not_answered(task, route)
            if default is None:
                raise
            result = await self._run(default, inputs, options, long_texts, started)
        asyncio.get_running_loop().call_soon(self._count, result)  # after the answer, which should not wait for it
        return result

    async def compare(
        self,
        task: str,
        variants: Sequence[str] | None,
        inputs: Sequence[TextInput],
        options: RequestOptions,
        *,
        long_texts: LongTextOptions = DEFAULT_LONG_TEXTS,
    ) -> Comparison:
        """Run the same inputs through several variants of a task; the first is the reference.

        By default these are `dense` and the task's default variant; if that is `dense`, every other variant.

        Raises:
            InvalidRequest: a variant is named twice, the task has only one, or the labels of two variants differ.
            UnknownResource, Unavailable, TooLarge, Overloaded, DeadlineExceeded, InferenceFailed: as described there.
        """
        engines = self._engines_to_compare(task, variants)
        self._check_size(inputs)
        for engine in engines:
            self._check_kind(engine, inputs)
        comparison = await compare(self.batcher, engines, inputs, options, long_texts=long_texts)
        for compared in comparison.variants:
            self._count(compared.answer)
        return comparison

    @property
    def service_settings(self) -> Settings:
        """Settings of the whole service."""
        return self.peers.settings if self.peers else self.settings

    async def change(self, change: CatalogChange) -> None:
        """Change what is served, in every process of the service; if one refuses, none keeps the change.

        Raises:
            UnknownResource, Unavailable, InvalidRequest: as in the method of `Catalog`.
        """
        if self.peers:
            await self.peers.change(change)
        else:
            await self.run_admin(partial(self.catalog.apply, change))

    async def exposition(self) -> bytes:
        """Return the metrics of the whole service in the text format of Prometheus."""
        if self.peers:
            self.metrics.show(await self.peers.state())
        return self.metrics.exposition()

    async def run_admin(self, change: Callable[[], _Result]) -> _Result:
        """Run a change of the catalog off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._admin_threads, change)

    def reason_not_ready(self) -> str | None:
        """Return why traffic should go elsewhere; None when every task's default variant can answer."""
        if self.drain.draining:
            return "the service is shutting down"
        return self.catalog.reason_not_ready() or (self.peers.reason_not_ready() if self.peers else None)

    def start(self) -> None:
        """Load the models in a thread, so that probes and pages answer meanwhile."""
        threading.Thread(target=self.catalog.watch, name="store-watch", daemon=True).start()

    async def loaded(self) -> None:
        """Wait until every bundle is served or refused and a mirrored URL has answered."""
        await asyncio.shield(asyncio.wrap_future(self.catalog.loaded))

    async def stop(self) -> None:
        """Stop loading and accept no more work; takes a few seconds at most, even if something hangs."""
        self._admin_threads.shutdown(wait=False, cancel_futures=True)
        self.experiments.close()
        closing = (
            asyncio.to_thread(self.catalog.close, CLOSE_SECONDS),
            asyncio.to_thread(self.batcher.close),
            asyncio.to_thread(self.disagreements.close),
        )
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.error("a part of the service did not stop cleanly", exc_info=outcome)

    def _run(
        self,
        engine: Engine,
        inputs: Sequence[TextInput],
        options: RequestOptions,
        long_texts: LongTextOptions,
        arrived: float,
    ) -> Coroutine[Any, Any, Classification]:
        treatment = engine.long_texts(long_texts)
        return classify(self.batcher, engine, inputs, options, long_texts=treatment, arrived=arrived)

    def _engines_to_compare(self, task: str, variants: Sequence[str] | None) -> list[Engine]:
        if variants is not None:
            if len(set(variants)) != len(variants):
                raise InvalidRequest("variants: name each variant once")
            return [self.catalog.engine(task, variant) for variant in variants]
        default = self.catalog.engine(task)
        snapshot = self.catalog.snapshot
        names = snapshot.variants(task)
        reference = self.catalog.engine(task, REFERENCE_VARIANT) if REFERENCE_VARIANT in names else default
        if default is not reference:
            return [reference, default]
        others = [snapshot.engines[task, name] for name in names if (task, name) in snapshot.engines]
        others = [engine for engine in others if engine is not reference]
        if not others:
            raise InvalidRequest(
                f"task {task!r} serves only {reference.manifest.variant}: publish another variant first"
            )
        return [reference, *others]

    def _check_size(self, inputs: Sequence[TextInput]) -> None:
        check_size(inputs, max_items=self.settings.max_items, max_characters=self.settings.max_characters)

    def _check_kind(self, engine: Engine, inputs: Sequence[TextInput]) -> None:
        """Refuse inputs of another kind than the training data, if the settings say so."""
        if self.settings.input_mismatch == "refuse" and (mismatch := engine.input_mismatch(inputs)) is not None:
            raise InvalidRequest(mismatch)

    def _count(self, result: Classification) -> None:
        self.metrics.requests.of(result.engine.ref).classified(
            inputs=len(result.tokens),
            tokens=sum([len(item) for item in result.tokens]),
            truncated=sum([item.truncated for item in result.tokens]),
            queue_seconds=result.queue_seconds,
            tokenize_seconds=result.tokenize_seconds,
            inference_seconds=result.inference_seconds,
        )
