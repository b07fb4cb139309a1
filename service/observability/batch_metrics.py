"""Metrics of the queue and of the batches."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sparserve.service.observability.request_metrics import MODEL, adding, observing
from sparserve.service.observability.worker_metrics import LIVE
from sparserve.service.types import ModelRef

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class FunctionGauge(Gauge):
    """Gauge with the value of a function, summed over the workers: `publish` writes it where the others read it."""

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry, shared: bool) -> None:
        super().__init__(name, documentation, registry=registry, multiprocess_mode=LIVE)
        self._shared = shared
        self._function: Callable[[], float] = lambda: 0

    def set_function(self, f: Callable[[], float]) -> None:
        """Set the function."""
        self._function = f
        if not self._shared:
            super().set_function(f)

    def publish(self) -> None:
        """Set the value of the function now."""
        self.set(self._function())


class BatchMetrics:
    """The queue and the runs of the models' graphs; `shared` if this process is one of several."""

    def __init__(self, registry: CollectorRegistry, *, shared: bool) -> None:
        self.batches = Counter("sparserve_batches_total", "Runs of a model's graph.", MODEL, registry=registry)
        self.batch_inputs = Histogram(
            "sparserve_batch_inputs",
            "Inputs in one run of a model's graph, from any requests.",
            MODEL,
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.padding = Counter(
            "sparserve_padding_tokens_total", "Tokens computed only to pad batches.", MODEL, registry=registry
        )
        self.padding_saved = Counter(
            "sparserve_padding_saved_tokens_total",
            "Tokens not computed because batches are padded to their longest input, not to the model's maximum length.",
            MODEL,
            registry=registry,
        )
        self.running = FunctionGauge(
            "sparserve_batches_running", "Batches running now.", registry=registry, shared=shared
        )
        self.waiting = FunctionGauge(
            "sparserve_inputs_waiting", "Inputs waiting for a batch now.", registry=registry, shared=shared
        )
        self.waiting_tokens = FunctionGauge(
            "sparserve_tokens_waiting", "Tokens waiting for a batch now.", registry=registry, shared=shared
        )
        self.failed = Counter(
            "sparserve_batches_failed_total",
            "Runs of a model's graph that raised an exception.",
            MODEL,
            registry=registry,
        )
        self.halved = Counter(
            "sparserve_batches_halved_total",
            "Batches run in two halves because memory was short.",
            MODEL,
            registry=registry,
        )
        self._models: dict[tuple[str, str], ModelBatchMetrics] = {}

    def of(self, model: ModelRef) -> "ModelBatchMetrics":
        """Return the metrics of one variant, bound to its labels."""
        labels = (model.task, model.variant)
        bound = self._models.get(labels)
        if bound is None:
            bound = self._models[labels] = ModelBatchMetrics(self, labels)
        return bound


class ModelBatchMetrics:
    """The metrics of the batches of one variant."""

    def __init__(self, metrics: BatchMetrics, labels: tuple[str, str]) -> None:
        self._batches = adding(metrics.batches.labels(*labels))
        self._batch_inputs = observing(metrics.batch_inputs.labels(*labels))
        self._padding = adding(metrics.padding.labels(*labels))
        self._padding_saved = adding(metrics.padding_saved.labels(*labels))
        self.failed = metrics.failed.labels(*labels).inc
        self.halved = metrics.halved.labels(*labels).inc

    def ran(self, *, inputs: int, tokens: int, padded_tokens: int, max_tokens: int) -> None:
        """Count a batch; `max_tokens` is its size if all inputs had the model's maximum length."""
        self._batches(1)
        self._batch_inputs(inputs)
        self._padding(padded_tokens - tokens)
        self._padding_saved(max(max_tokens - padded_tokens, 0))
