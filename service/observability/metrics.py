"""The Prometheus metrics, in base units; each is changed where the state that it tells of changes."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal

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

from sparserve.service.types import ModelRef, Timings, Usage
from sparserve.service.version import VERSION

STAGES = ("queue", "tokenize", "inference")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ARMS = ("default", "candidate")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One registry for one app, so that two apps in a process do not share counters."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        model = ("task", "variant")
        self.requests = Counter(
            "sparserve_http_requests_total", "Answered requests.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "sparserve_http_request_duration_seconds",
            "Time from the request's first byte to the answer's last.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.connections = Gauge("sparserve_connections", "Connections of clients now.", registry=registry)
        self.connections_given_up = Counter(
            "sparserve_connections_given_up_total",
            "Connections ended by the service, by what their client did: slow_head, large_head, large_trailers, "
            "not_reading.",
            ("reason",),
            registry=registry,
        )
        for reason in ("slow_head", "large_head", "large_trailers", "not_reading"):
            self.connections_given_up.labels(reason)
        self.stage_seconds = Histogram(
            "sparserve_stage_duration_seconds",
            "Time of a request in one stage: queue, tokenize or inference.",
            (*model, "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.inputs = Counter("sparserve_inputs_total", "Inputs classified.", model, registry=registry)
        self.tokens = Counter("sparserve_tokens_total", "Tokens classified, padding apart.", model, registry=registry)
        self.truncated = Counter(
            "sparserve_truncated_inputs_total", "Inputs that were cut to the model's length.", model, registry=registry
        )
        self.batches = Counter("sparserve_batches_total", "Runs of a model's graph.", model, registry=registry)
        self.batch_inputs = Histogram(
            "sparserve_batch_inputs",
            "Inputs of one run of a model's graph, of any requests.",
            model,
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.padding = Counter(
            "sparserve_padding_tokens_total", "Tokens computed only to fill batches up.", model, registry=registry
        )
        self.running = Gauge("sparserve_batches_running", "Batches running now.", registry=registry)
        self.waiting = Gauge("sparserve_inputs_waiting", "Inputs waiting for a batch now.", registry=registry)
        self.waiting_tokens = Gauge("sparserve_tokens_waiting", "Tokens waiting for a batch now.", registry=registry)
        self.padding_saved = Counter(
            "sparserve_padding_saved_tokens_total",
            "Tokens not computed because batches are as long as their longest input, not as the model allows.",
            model,
            registry=registry,
        )
        self.batches_failed = Counter(
            "sparserve_batches_failed_total",
            "Runs of a model's graph that raised an exception.",
            model,
            registry=registry,
        )
        self.batches_halved = Counter(
            "sparserve_batches_halved_total", "Batches run in two halves for want of memory.", model, registry=registry
        )
        self.shed = Counter(
            "sparserve_requests_shed_total",
            "Requests answered 429 for what waits before them: inputs or tokens over a limit, or past their deadline; "
            "or 503 for the bytes of all bodies.",
            ("reason",),
            registry=registry,
        )
        for reason in ("inputs", "tokens", "deadline", "bodies"):
            self.shed.labels(reason)
        self.deadline_misses = Counter(
            "sparserve_deadline_misses_total",
            "Requests answered 504 because their deadline had passed.",
            model,
            registry=registry,
        )
        self.denied = Counter(
            "sparserve_requests_denied_total", "Requests answered 401 or 403 for want of a key.", registry=registry
        )
        self.rate_limited = Counter(
            "sparserve_requests_rate_limited_total",
            "Requests answered 429 because their key or address had sent too many.",
            registry=registry,
        )
        self.model_info = Gauge(
            "sparserve_model_info",
            "1 for every bundle that is served; runtime is onnx or sparse.",
            (*model, "version", "runtime"),
            registry=registry,
        )
        self.refused = Gauge("sparserve_bundles_refused", "Bundles that failed verification.", registry=registry)
        compared = ("task", "candidate")
        self.agreement = Gauge(
            "sparserve_experiment_agreement_ratio",
            "Fraction of distinct inputs on which the candidate says the same as the default variant.",
            compared,
            registry=registry,
        )
        self.drift = Gauge(
            "sparserve_experiment_score_difference",
            "Mean of the largest difference of a score between candidate and default variant.",
            compared,
            registry=registry,
        )
        self.compared = Gauge(
            "sparserve_experiment_inputs",
            "Distinct inputs compared in the running experiment.",
            compared,
            registry=registry,
        )
        self.compared_seconds = Histogram(
            "sparserve_experiment_input_duration_seconds",
            "Compute time of an input of a compared request, its part of shared batches; arm is default or candidate.",
            (*compared, "arm"),
            buckets=(0.0001, 0.00025, 0.0005, *SECONDS),
            registry=registry,
        )
        self.not_compared = Counter(
            "sparserve_experiment_not_compared_total", "Requests that were not compared.", compared, registry=registry
        )
        self.experiments_stopped = Counter(
            "sparserve_experiments_stopped_total", "Candidates that the guard took off.", compared, registry=registry
        )
        self.disagreements_lost = Counter(
            "sparserve_disagreements_lost_total",
            "Disagreements of variants that could not be written to their database.",
            registry=registry,
        )
        self.store_readable = Gauge(
            "sparserve_store_readable",
            "0 while the store cannot be read; what is loaded is still served.",
            registry=registry,
        )
        self.store_looked = Gauge(
            "sparserve_store_last_look_timestamp_seconds",
            "When the store was last read in full, in Unix time; 0: never.",
            registry=registry,
        )
        self.loads = Counter(
            "sparserve_model_loads_total",
            "Bundles loaded, by outcome: served or refused.",
            (*model, "outcome"),
            registry=registry,
        )
        build = Gauge(
            "sparserve_build_info",
            "1; the versions of the service, of Python and of onnxruntime.",
            ("version", "python", "onnxruntime"),
            registry=registry,
        )
        build.labels(VERSION, platform.python_version(), version("onnxruntime")).set(1)
        self.ready = Gauge("sparserve_ready", "1 when /readyz answers 200.", registry=registry)

    def ran(self, model: ModelRef, inputs: int, tokens: int, padded_tokens: int, longest_tokens: int) -> None:
        """Count a batch; it would have `longest_tokens` if its inputs were as long as the model allows."""
        names = (model.task, model.variant)
        self.batches.labels(*names).inc()
        self.batch_inputs.labels(*names).observe(inputs)
        self.padding.labels(*names).inc(padded_tokens - tokens)
        self.padding_saved.labels(*names).inc(max(longest_tokens - padded_tokens, 0))

    def failed(self, model: ModelRef) -> None:
        """Count a batch that raised an exception."""
        self.batches_failed.labels(model.task, model.variant).inc()

    def halved(self, model: ModelRef) -> None:
        """Count a batch that memory was too short for."""
        self.batches_halved.labels(model.task, model.variant).inc()

    def loaded(self, task: str, variant: str, outcome: Literal["served", "refused"]) -> None:
        """Count a bundle that was loaded, or refused when it was to be."""
        self.loads.labels(task, variant, outcome).inc()
        self.batches_failed.labels(task, variant)  # 0, so that the first failure is an increase

    def classified(self, model: ModelRef, usage: Sequence[Usage], timings: Timings) -> None:
        """Count an answered request."""
        names = (model.task, model.variant)
        self.inputs.labels(*names).inc(len(usage))
        self.tokens.labels(*names).inc(sum(item.tokens for item in usage))
        self.truncated.labels(*names).inc(sum(item.truncated for item in usage))
        for stage in STAGES:
            self.stage_seconds.labels(*names, stage).observe(getattr(timings, f"{stage}_seconds"))

    def compared_aside(
        self,
        task: str,
        candidate: str,
        *,
        agreement: float,
        drift: float,
        inputs: int,
        default_seconds: float,
        candidate_seconds: float,
    ) -> None:
        """Set an experiment's figures so far, and observe the compute time per input of the last compared request."""
        self.agreement.labels(task, candidate).set(agreement)
        self.drift.labels(task, candidate).set(drift)
        self.compared.labels(task, candidate).set(inputs)
        for arm, seconds in zip(ARMS, (default_seconds, candidate_seconds), strict=True):
            self.compared_seconds.labels(task, candidate, arm).observe(seconds)

    def experiment_begun(self, task: str, candidate: str) -> None:
        """Count its candidate from 0 on: an increase of a series that is not there yet is none to Prometheus."""
        self.experiments_stopped.labels(task, candidate)
        self.not_compared.labels(task, candidate)

    def experiment_ended(self, task: str, candidate: str) -> None:
        """Tell nothing more of how an experiment stood; what is counted of its candidate stays."""
        for gauge in (self.agreement, self.drift, self.compared):
            gauge.remove(task, candidate)
        for arm in ARMS:
            self.compared_seconds.remove(task, candidate, arm)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
