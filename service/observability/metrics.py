"""Prometheus metrics in base units, in groups by the part of the service that updates them.

Counters, histograms and gauges of the mode `livesum` add up over the workers of a service. The other gauges describe
the state of the whole service; groups that have them take a second registry, `state`. In a service of one process both
registries are the same.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from sparserve.service.observability.worker_metrics import LIVE, ProcessesCollector, summed_registry
from sparserve.service.types import ModelRef, Timings
from sparserve.service.version import VERSION

STAGES: Final = ("queue", "tokenize", "inference")
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROLES: Final = ("default", "candidate")
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
GIVEN_UP_REASONS: Final = ("slow_head", "large_head", "large_trailers", "not_reading")
SHED_REASONS: Final = ("inputs", "tokens", "deadline", "bodies")
_MODEL: Final = ("task", "variant")
_COMPARED: Final = ("task", "candidate")


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


class HttpMetrics:
    """Connections, and requests by route and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "sparserve_http_requests_total", "Answered requests.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "sparserve_http_request_duration_seconds",
            "Time from the first byte of the request to the last byte of the response.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.connections = Gauge(
            "sparserve_connections", "Open client connections.", registry=registry, multiprocess_mode=LIVE
        )
        self.connections_given_up = Counter(
            "sparserve_connections_given_up_total",
            f"Connections closed by the service, by reason: {', '.join(GIVEN_UP_REASONS)}.",
            ("reason",),
            registry=registry,
        )
        for reason in GIVEN_UP_REASONS:
            self.connections_given_up.labels(reason)
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.denied = Counter(
            "sparserve_requests_denied_total", "Requests answered 401 or 403 because of their key.", registry=registry
        )
        self.rate_limited = Counter(
            "sparserve_requests_rate_limited_total",
            "Requests answered 429 because their key or address exceeded its rate.",
            registry=registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; there are few combinations of method, route and status."""
        key = (method, route, status)
        bound = self._answered.get(key)
        if bound is None:
            bound = self.requests.labels(method, route, str(status)), self.request_seconds.labels(route)
            self._answered[key] = bound
        bound[0].inc()
        bound[1].observe(seconds)


class RequestMetrics:
    """Classified inputs, time per stage, and requests that were refused because of load."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage_seconds = Histogram(
            "sparserve_stage_duration_seconds",
            "Time of a request in one stage: queue, tokenize or inference.",
            (*_MODEL, "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.inputs = Counter("sparserve_inputs_total", "Classified inputs.", _MODEL, registry=registry)
        self.tokens = Counter(
            "sparserve_tokens_total", "Classified tokens, padding excluded.", _MODEL, registry=registry
        )
        self.truncated = Counter(
            "sparserve_truncated_inputs_total",
            "Inputs that were truncated to the model's maximum length.",
            _MODEL,
            registry=registry,
        )
        self.shed = Counter(
            "sparserve_requests_shed_total",
            "Requests answered 429 because of the queue: inputs or tokens over a limit, or past their deadline; "
            "or 503 because of the total size of all bodies.",
            ("reason",),
            registry=registry,
        )
        for reason in SHED_REASONS:
            self.shed.labels(reason)
        self._models: dict[tuple[str, str], ModelRequestMetrics] = {}
        self.deadline_misses = Counter(
            "sparserve_deadline_misses_total",
            "Requests answered 504 because their deadline had passed.",
            _MODEL,
            registry=registry,
        )

    def of(self, model: ModelRef) -> "ModelRequestMetrics":
        """Return the metrics of one variant, bound to its labels."""
        labels = (model.task, model.variant)
        bound = self._models.get(labels)
        if bound is None:
            bound = self._models[labels] = ModelRequestMetrics(self, labels)
        return bound


class ModelRequestMetrics:
    """The metrics of the requests of one variant. Finding them by their labels takes longer than counting."""

    def __init__(self, metrics: RequestMetrics, labels: tuple[str, str]) -> None:
        self._inputs = metrics.inputs.labels(*labels)
        self._tokens = metrics.tokens.labels(*labels)
        self._truncated = metrics.truncated.labels(*labels)
        self._queue, self._tokenize, self._inference = (
            metrics.stage_seconds.labels(*labels, stage) for stage in STAGES
        )

    def classified(self, *, inputs: int, tokens: int, truncated: int, timings: Timings) -> None:
        """Count an answered request."""
        self._inputs.inc(inputs)
        self._tokens.inc(tokens)
        self._truncated.inc(truncated)
        self._queue.observe(timings.queue_seconds)
        self._tokenize.observe(timings.tokenize_seconds)
        self._inference.observe(timings.inference_seconds)


class BatchMetrics:
    """The queue and the runs of the models' graphs; `shared` if this process is one of several."""

    def __init__(self, registry: CollectorRegistry, *, shared: bool) -> None:
        self.batches = Counter("sparserve_batches_total", "Runs of a model's graph.", _MODEL, registry=registry)
        self.batch_inputs = Histogram(
            "sparserve_batch_inputs",
            "Inputs in one run of a model's graph, from any requests.",
            _MODEL,
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.padding = Counter(
            "sparserve_padding_tokens_total", "Tokens computed only to pad batches.", _MODEL, registry=registry
        )
        self.padding_saved = Counter(
            "sparserve_padding_saved_tokens_total",
            "Tokens not computed because batches are padded to their longest input, not to the model's maximum length.",
            _MODEL,
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
            _MODEL,
            registry=registry,
        )
        self.halved = Counter(
            "sparserve_batches_halved_total",
            "Batches run in two halves because memory was short.",
            _MODEL,
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
        self._batches = metrics.batches.labels(*labels)
        self._batch_inputs = metrics.batch_inputs.labels(*labels)
        self._padding = metrics.padding.labels(*labels)
        self._padding_saved = metrics.padding_saved.labels(*labels)
        self.failed = metrics.failed.labels(*labels).inc
        self.halved = metrics.halved.labels(*labels).inc

    def ran(self, *, inputs: int, tokens: int, padded_tokens: int, max_tokens: int) -> None:
        """Count a batch; `max_tokens` is its size if all inputs had the model's maximum length."""
        self._batches.inc()
        self._batch_inputs.observe(inputs)
        self._padding.inc(padded_tokens - tokens)
        self._padding_saved.inc(max(max_tokens - padded_tokens, 0))


class StoreMetrics:
    """The store and the bundles loaded from it."""

    def __init__(self, registry: CollectorRegistry, state: CollectorRegistry, batches: BatchMetrics) -> None:
        self._batches = batches
        self.model_info = Gauge(
            "sparserve_model_info",
            "1 for every served bundle; runtime is onnx or sparse.",
            (*_MODEL, "version", "runtime"),
            registry=state,
        )
        self.refused = Gauge("sparserve_bundles_refused", "Bundles that failed verification.", registry=state)
        self.readable = Gauge(
            "sparserve_store_readable",
            "0 while the store cannot be read; loaded models are still served.",
            registry=state,
        )
        self.last_read = Gauge(
            "sparserve_store_last_look_timestamp_seconds",
            "Unix time of the last complete read of the store; 0 if there was none.",
            registry=state,
        )
        self.loads = Counter(
            "sparserve_model_loads_total",
            "Bundle loads by outcome: served or refused.",
            (*_MODEL, "outcome"),
            registry=registry,
        )

    def loaded(self, task: str, variant: str, outcome: Literal["served", "refused"]) -> None:
        """Count an attempt to load a bundle."""
        self.loads.labels(task, variant, outcome).inc()
        self._batches.failed.labels(task, variant)  # starts at 0, so that Prometheus sees the first failure


class ExperimentMetrics:
    """Candidates compared with default variants on live traffic."""

    def __init__(self, registry: CollectorRegistry, state: CollectorRegistry) -> None:
        self.agreement = Gauge(
            "sparserve_experiment_agreement_ratio",
            "Fraction of distinct inputs with the same prediction from the candidate and the default variant.",
            _COMPARED,
            registry=state,
        )
        self.score_difference = Gauge(
            "sparserve_experiment_score_difference",
            "Mean over inputs of the largest score difference between the candidate and the default variant.",
            _COMPARED,
            registry=state,
        )
        self.inputs = Gauge(
            "sparserve_experiment_inputs",
            "Distinct inputs compared in the running experiment.",
            _COMPARED,
            registry=state,
        )
        self.input_seconds = Histogram(
            "sparserve_experiment_input_duration_seconds",
            "Compute time per input of a compared request, its share of batches; arm is default or candidate.",
            (*_COMPARED, "arm"),
            buckets=(0.0001, 0.00025, 0.0005, *SECONDS),
            registry=registry,
        )
        self.not_compared = Counter(
            "sparserve_experiment_not_compared_total", "Requests that were not compared.", _COMPARED, registry=registry
        )
        self.stopped = Counter(
            "sparserve_experiments_stopped_total",
            "Candidates that the guard has stopped.",
            _COMPARED,
            registry=registry,
        )
        self.disagreements_lost = Counter(
            "sparserve_disagreements_lost_total",
            "Disagreements that could not be written to their database.",
            registry=registry,
        )

    def begun(self, task: str, candidate: str) -> None:
        """Create the candidate's counters at 0, so that Prometheus sees their first increase."""
        self.stopped.labels(task, candidate)
        self.not_compared.labels(task, candidate)

    def compared(
        self,
        task: str,
        candidate: str,
        *,
        agreement: float,
        score_difference: float,
        inputs: int,
        default_seconds: float,
        candidate_seconds: float,
    ) -> None:
        """Set the figures of an experiment, and observe the compute time per input of the last compared request."""
        self.agreement.labels(task, candidate).set(agreement)
        self.score_difference.labels(task, candidate).set(score_difference)
        self.inputs.labels(task, candidate).set(inputs)
        for role, seconds in zip(ROLES, (default_seconds, candidate_seconds), strict=True):
            self.input_seconds.labels(task, candidate, role).observe(seconds)

    def show(self, figures: Sequence[tuple[str, str, float, float, int]]) -> None:
        """Set the figures of all experiments: task, candidate, agreement, score difference, inputs."""
        for gauge in (self.agreement, self.score_difference, self.inputs):
            gauge.clear()
        for task, candidate, agreement, score_difference, inputs in figures:
            self.agreement.labels(task, candidate).set(agreement)
            self.score_difference.labels(task, candidate).set(score_difference)
            self.inputs.labels(task, candidate).set(inputs)

    def ended(self, task: str, candidate: str) -> None:
        """Remove the figures of an experiment; the candidate's counters and histograms stay."""
        for gauge in (self.agreement, self.score_difference, self.inputs):
            gauge.remove(task, candidate)


class WorkerMetrics:
    """The processes that serve."""

    def __init__(self, registry: CollectorRegistry, state: CollectorRegistry) -> None:
        self.workers = Gauge("sparserve_workers", "Processes that serve.", registry=state)
        self.workers.set(1)
        self.restarts = Counter(
            "sparserve_worker_restarts_total",
            "Workers that ended unexpectedly and were replaced.",
            registry=registry,
        )


class Metrics:
    """All metrics of one app, in a separate registry: two apps in a process do not share counters.

    Args:
        folder: of the files of the metrics, if this process is one of several workers.
    """

    def __init__(self, folder: Path | None = None) -> None:
        registry = self.registry = CollectorRegistry()
        state = self._state = CollectorRegistry() if folder else registry
        self._summed = summed_registry(folder) if folder else None
        self._processes = ProcessesCollector()
        if folder:
            state.register(self._processes)
        else:
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)
        PlatformCollector(registry=state)
        self.http = HttpMetrics(registry)
        self.requests = RequestMetrics(registry)
        self.batches = BatchMetrics(registry, shared=folder is not None)
        self.store = StoreMetrics(registry, state, self.batches)
        self.experiments = ExperimentMetrics(registry, state)
        self.workers = WorkerMetrics(registry, state)
        build = Gauge(
            "sparserve_build_info",
            "1; the versions of the service, of Python and of onnxruntime.",
            ("version", "python", "onnxruntime"),
            registry=state,
        )
        build.labels(VERSION, platform.python_version(), version("onnxruntime")).set(1)
        self.ready = Gauge("sparserve_ready", "1 when /readyz answers 200.", registry=state)

    def publish(self) -> dict[str, float]:
        """Write the gauges of this worker that are functions; return what it knows of the store."""
        for gauge in (self.batches.running, self.batches.waiting, self.batches.waiting_tokens):
            gauge.publish()
        store = self.store
        gauges = {"readable": store.readable, "last_read": store.last_read, "refused": store.refused}
        return {name: next(iter(gauge.collect())).samples[0].value for name, gauge in gauges.items()}

    def show(self, state: Mapping[str, Any]) -> None:
        """Set the gauges of the whole service from its state; nothing if it is empty."""
        if not state:
            return
        self.workers.workers.set(state["workers"])
        self.store.readable.set(state["readable"])
        self.store.last_read.set(state["last_read"])
        self.store.refused.set(state["refused"])
        self._processes.pids = state["processes"]
        self.experiments.show(state["experiments"])

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        if self._summed is None:
            return generate_latest(self.registry)
        return generate_latest(self._summed) + generate_latest(self._state)
