"""Metrics of connections and requests, bound to their labels once: to find them takes longer than to count."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sparserve.service.observability.worker_metrics import LIVE
from sparserve.service.types import ModelRef

MODEL: Final = ("task", "variant")
STAGES: Final = ("queue", "tokenize", "inference")
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
GIVEN_UP_REASONS: Final = ("slow_head", "large_head", "large_trailers", "not_reading")
SHED_REASONS: Final = ("inputs", "tokens", "deadline", "bodies")


Count = Callable[[float], object]


def adding(counter: Counter) -> Count:
    """Return the function that adds to a counter, without the three layers of checks of `Counter.inc`."""
    add: Count = counter._value.inc
    return add


def observing(histogram: Histogram) -> Count:
    """Return the function that observes a value, without the checks of `Histogram.observe`."""
    add, bounds = histogram._sum.inc, histogram._upper_bounds
    buckets = [bucket.inc for bucket in histogram._buckets]

    def observe(value: float) -> None:
        add(value)
        buckets[bisect_left(bounds, value)](1)

    return observe


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
        self._answered: dict[tuple[str, str, int], tuple[Count, Count]] = {}
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
            bound = (
                adding(self.requests.labels(method, route, str(status))),
                observing(self.request_seconds.labels(route)),
            )
            self._answered[key] = bound
        bound[0](1)
        bound[1](seconds)


class RequestMetrics:
    """Classified inputs, time per stage, and requests that were refused because of load."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage_seconds = Histogram(
            "sparserve_stage_duration_seconds",
            "Time of a request in one stage: queue, tokenize or inference.",
            (*MODEL, "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.inputs = Counter("sparserve_inputs_total", "Classified inputs.", MODEL, registry=registry)
        self.tokens = Counter(
            "sparserve_tokens_total", "Classified tokens, padding excluded.", MODEL, registry=registry
        )
        self.truncated = Counter(
            "sparserve_truncated_inputs_total",
            "Inputs that were truncated to the model's maximum length.",
            MODEL,
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
        self.shed_by_deadline = self.shed.labels("deadline").inc
        self._models: dict[tuple[str, str], ModelRequestMetrics] = {}
        self.deadline_misses = Counter(
            "sparserve_deadline_misses_total",
            "Requests answered 504 because their deadline had passed.",
            MODEL,
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
        self._inputs = adding(metrics.inputs.labels(*labels))
        self._tokens = adding(metrics.tokens.labels(*labels))
        self._truncated = adding(metrics.truncated.labels(*labels))
        self._queue, self._tokenize, self._inference = (
            observing(metrics.stage_seconds.labels(*labels, stage)) for stage in STAGES
        )

    def classified(
        self,
        *,
        inputs: int,
        tokens: int,
        truncated: int,
        queue_seconds: float,
        tokenize_seconds: float,
        inference_seconds: float,
    ) -> None:
        """Count an answered request."""
        self._inputs(inputs)
        self._tokens(tokens)
        if truncated:
            self._truncated(truncated)
        self._queue(queue_seconds)
        self._tokenize(tokenize_seconds)
        self._inference(inference_seconds)
