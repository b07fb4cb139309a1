"""Prometheus metrics in base units, in groups by the part of the service that updates them.

Counters, histograms and gauges of the mode `livesum` add up over the workers of a service. The other gauges describe
the state of the whole service; groups that have them take a second registry, `state`. In a service of one process both
registries are the same.
"""

import platform
from collections.abc import Mapping, Sequence
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

from sparserve.service.observability.batch_metrics import BatchMetrics
from sparserve.service.observability.request_metrics import MODEL, SECONDS, HttpMetrics, RequestMetrics
from sparserve.service.observability.worker_metrics import ProcessesCollector, summed_registry
from sparserve.service.version import VERSION

ROLES: Final = ("default", "candidate")
_COMPARED: Final = ("task", "candidate")


class StoreMetrics:
    """The store and the bundles loaded from it."""

    def __init__(self, registry: CollectorRegistry, state: CollectorRegistry, batches: BatchMetrics) -> None:
        self._batches = batches
        self.model_info = Gauge(
            "sparserve_model_info",
            "1 for every served bundle; runtime is onnx or sparse.",
            (*MODEL, "version", "runtime"),
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
            (*MODEL, "outcome"),
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
        agreement: float | None,
        score_difference: float,
        inputs: int,
        default_seconds: float,
        candidate_seconds: float,
    ) -> None:
        """Set the figures of an experiment, and observe the compute time per input of the last compared request.

        The agreement is None for a regression.
        """
        self._set(task, candidate, agreement, score_difference, inputs)
        for role, seconds in zip(ROLES, (default_seconds, candidate_seconds), strict=True):
            self.input_seconds.labels(task, candidate, role).observe(seconds)

    def show(self, figures: Sequence[tuple[str, str, float | None, float, int]]) -> None:
        """Set the figures of all experiments: task, candidate, agreement, score difference, inputs."""
        for gauge in (self.agreement, self.score_difference, self.inputs):
            gauge.clear()
        for one in figures:
            self._set(*one)

    def ended(self, task: str, candidate: str) -> None:
        """Remove the figures of an experiment; the candidate's counters and histograms stay."""
        for gauge in (self.agreement, self.score_difference, self.inputs):
            gauge.remove(task, candidate)

    def _set(self, task: str, candidate: str, agreement: float | None, score_difference: float, inputs: int) -> None:
        if agreement is not None:
            self.agreement.labels(task, candidate).set(agreement)
        self.score_difference.labels(task, candidate).set(score_difference)
        self.inputs.labels(task, candidate).set(inputs)


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
