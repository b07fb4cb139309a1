"""A batch that runs, with its requests: their inputs go in, their rows come out, and a failure is whose it is."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.service.errors import InferenceFailed
from sparserve.service.inference.batch_queue import Batch
from sparserve.service.inference.engine import Engine, Logits, scores
from sparserve.service.inference.health import run_within_memory
from sparserve.service.inference.ticket import Item, Ticket
from sparserve.service.observability.batch_metrics import ModelBatchMetrics


@dataclass(slots=True)
class InferenceResult:
    """Logits and scores `[inputs, labels]` of a request, and its times.

    `queue_seconds` is the time from its arrival to its first batch. `inference_seconds` is the sum of its batches,
    which other requests may have shared. `compute_seconds` is its own share of them, by tokens.
    """

    logits: Logits
    scores: Logits
    queue_seconds: float
    inference_seconds: float
    compute_seconds: float


@dataclass(eq=False, slots=True)
class PendingRequest:
    """State of a request until it is answered; `answer` is `[2, inputs, labels]`, logits and scores."""

    engine: Engine
    tokens: Sequence[Tokens]
    result: asyncio.Future[InferenceResult]
    answer: Logits
    remaining: int
    queue_seconds: float | None = None
    inference_seconds: float = 0.0
    compute_seconds: float = 0.0

    def receive(self, positions: Sequence[int], rows: Logits) -> None:
        """Store the logits and scores of inputs; the last one completes the request."""
        self.answer[:, positions] = rows
        self.remaining -= len(positions)
        if not self.remaining:
            seconds = (self.queue_seconds or 0.0, self.inference_seconds, self.compute_seconds)
            self.result.set_result(InferenceResult(self.answer[0], self.answer[1], *seconds))


@dataclass(slots=True)
class RunningBatch:
    """A batch and its requests."""

    batch: Batch
    requests: Mapping[Ticket, PendingRequest]

    @property
    def engine(self) -> Engine:
        """The engine of all inputs."""
        return next(iter(self.requests.values())).engine

    def run(self, metrics: ModelBatchMetrics) -> dict[Ticket, Logits | InferenceFailed]:
        """Run the batch; return logits and scores of each request, `[2, inputs, labels]`, or why it failed."""
        try:
            return self._run(metrics)
        except Exception as error:  # no memory for the rows of an answer: the requests must get one, though
            return {ticket: self._failure(error) for ticket in self.requests}

    def _run(self, metrics: ModelBatchMetrics) -> dict[Ticket, Logits | InferenceFailed]:
        try:
            answer = self._answer(self.batch.items, metrics)
        except Exception as error:  # of any kind: the requests must get an answer, and the thread must continue
            failure = self._failure(error)
        else:
            self.engine.health.succeeded()
            if not np.isfinite(answer).all():
                return {ticket: self._finite(answer[:, rows]) for ticket, rows in self._rows().items()}
            if len(self.requests) == 1:
                return dict.fromkeys(self.requests, answer)
            return {ticket: answer[:, rows] for ticket, rows in self._rows().items()}
        # Outside the handler, so that memory referenced by the exception is free.
        metrics.failed()
        return self._run_apart(failure, metrics)

    def _run_apart(
        self, failure: InferenceFailed, metrics: ModelBatchMetrics
    ) -> dict[Ticket, Logits | InferenceFailed]:
        """Run the requests of a failed batch one by one, so that none fails because of another one's input.

        An engine that still answers its bundle's sample is not broken: the input that failed is at fault.
        """
        rows = self._rows()
        results: dict[Ticket, Logits | InferenceFailed] = dict.fromkeys(rows, failure)
        if len(rows) > 1:
            for ticket, positions in rows.items():
                try:
                    results[ticket] = self._answer([self.batch.items[row] for row in positions], metrics)
                except Exception as error:
                    results[ticket] = self._failure(error)
        if not any(isinstance(result, InferenceFailed) for result in results.values()) or self.engine.answers():
            self.engine.health.succeeded()
        else:
            self.engine.health.failed()
        return {
            ticket: result if isinstance(result, InferenceFailed) else self._finite(result)
            for ticket, result in results.items()
        }

    def _failure(self, error: Exception) -> InferenceFailed:
        """Return what the client sees; without the frames of the error, which hold the batch and its engine."""
        return InferenceFailed(f"{self.engine.ref.task}/{self.engine.ref.variant} failed: {type(error).__name__}")

    def _finite(self, rows: Logits) -> Logits | InferenceFailed:
        """Return the rows of one request; a failure of this request alone if its input made them infinite."""
        if np.isfinite(rows).all():
            return rows
        ref = self.engine.ref
        return InferenceFailed(f"{ref.task}/{ref.variant} answered with numbers that are not finite")

    def _answer(self, items: Sequence[Item], metrics: ModelBatchMetrics) -> Logits:
        """Return the logits and the scores of inputs, `[2, inputs, labels]`."""
        tokens = [self.requests[ticket].tokens[position] for ticket, position, _ in items]
        manifest = self.engine.manifest
        logits: Logits = run_within_memory(self.engine.logits, tokens, metrics.halved)
        if logits.shape != (len(tokens), len(manifest.labels)):
            raise ValueError(f"{logits.shape} logits for {len(tokens)} inputs")
        answer = np.empty((2, *logits.shape), dtype=np.float32)
        with np.errstate(all="ignore"):  # numbers that are not finite fail their request
            answer[0], answer[1] = logits, scores(logits, manifest.problem_type)
        return answer

    def _rows(self) -> dict[Ticket, list[int]]:
        """Return the rows of each request."""
        rows: dict[Ticket, list[int]] = {}
        for row, item in enumerate(self.batch.items):
            rows.setdefault(item.ticket, []).append(row)
        return rows


@dataclass(slots=True)
class Outcome:
    """Logits and scores of each request of a batch, in the order of its positions, and the time of the batch."""

    results: Mapping[Ticket, Logits | InferenceFailed]
    seconds: float


def deliver(running: RunningBatch, outcome: Outcome) -> None:
    """Give every request its rows, on the event loop, and answer the requests that are complete."""
    batch, seconds = running.batch, outcome.seconds
    for ticket, positions in batch.positions.items():
        request, result = running.requests[ticket], outcome.results[ticket]
        request.inference_seconds += seconds
        request.compute_seconds += seconds * sum([ticket.lengths[position] for position in positions]) / batch.tokens
        if request.result.done():  # cancelled, or failed because of another input
            continue
        if isinstance(result, InferenceFailed):
            request.result.set_exception(result)
        else:
            request.receive(positions, result)
