"""The Prometheus metrics, in base units; each is changed where the state that it tells of changes."""

from collections.abc import Sequence

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

from service.schemas import ModelRef, Timings, Usage

STAGES = ("queue", "tokenize", "inference")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
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
        self.shed = Counter("sparserve_requests_shed_total", "Requests answered 429.", registry=registry)
        self.model_info = Gauge(
            "sparserve_model_info",
            "1 for every bundle that is served; runtime is onnx or sparse.",
            (*model, "version", "runtime"),
            registry=registry,
        )
        self.refused = Gauge("sparserve_bundles_refused", "Bundles that failed verification.", registry=registry)
        self.store_readable = Gauge(
            "sparserve_store_readable",
            "0 while the store cannot be read; what is loaded is still served.",
            registry=registry,
        )
        self.ready = Gauge("sparserve_ready", "1 when /readyz answers 200.", registry=registry)

    def ran(self, model: ModelRef, inputs: int, tokens: int, padded_tokens: int) -> None:
        """Count a batch."""
        names = (model.task, model.variant)
        self.batches.labels(*names).inc()
        self.batch_inputs.labels(*names).observe(inputs)
        self.padding.labels(*names).inc(padded_tokens - tokens)

    def classified(self, model: ModelRef, usage: Sequence[Usage], timings: Timings) -> None:
        """Count an answered request."""
        names = (model.task, model.variant)
        self.inputs.labels(*names).inc(len(usage))
        self.tokens.labels(*names).inc(sum(item.tokens for item in usage))
        self.truncated.labels(*names).inc(sum(item.truncated for item in usage))
        for stage in STAGES:
            self.stage_seconds.labels(*names, stage).observe(getattr(timings, f"{stage}_seconds"))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
