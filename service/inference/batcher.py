"""Requests become batches: admitted by their cost, run on a few threads, answered as soon as their last input is.

A thread that is free takes the next batch from the queue at once: on an idle server a request waits for nothing, and
under load a batch fills while others run.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sparserve.models.bundle.inference import Tokens
from sparserve.service.errors import DeadlineExceeded, InferenceFailed, Overloaded, TooLarge
from sparserve.service.inference.batch_queue import Batch, BatchQueue, Ticket
from sparserve.service.inference.engine import Engine, Logits
from sparserve.service.inference.health import run_within_memory
from sparserve.service.inference.tokenizer_pool import Tokenizing
from sparserve.service.observability.metrics import Metrics

# How fast the rate at which the queue drains follows: a batch counts as much as all before it would after ten.
SMOOTHING: Final = 0.1
# Of a thread's last batch: one that takes longer is not waited for.
CLOSE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Answer:
    """Logits `[inputs, labels]` of a request, and where its time went.

    `queue_seconds` are from its arrival to its first batch, `inference_seconds` the sum of its batches', in which other
    requests may have had a part; `compute_seconds` are its own part of them, by tokens.
    """

    logits: Logits
    queue_seconds: float
    inference_seconds: float
    compute_seconds: float


@dataclass(eq=False)
class _Request:
    """What a ticket stands for, until it is answered."""

    engine: Engine
    tokens: Sequence[Tokens]
    answered: asyncio.Future[Answer]
    logits: Logits
    left: int
    queue_seconds: float | None = None
    inference_seconds: float = 0.0
    compute_seconds: float = 0.0

    def take(self, position: int, row: Logits) -> None:
        """An input's logits have come."""
        self.logits[position] = row
        self.left -= 1
        if not self.left:
            seconds = (self.queue_seconds or 0.0, self.inference_seconds, self.compute_seconds)
            self.answered.set_result(Answer(self.logits, *seconds))


class Batcher:
    """Runs inputs on `concurrency` threads, off the event loop.

    Args:
        budget, max_seconds, max_padding: of a batch, as `BatchQueue` says.
        window_seconds: how much earlier than its turn an input may run because its length suits a batch.
        max_items, max_tokens: inputs, and tokens, that may wait; beyond that requests are refused.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        budget: int,
        window_seconds: float,
        max_seconds: float = math.inf,
        max_padding: float = 1.0,
        max_items: int,
        max_tokens: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.concurrency = concurrency
        self.max_items = max_items
        self.max_tokens = max_tokens
        self._metrics = metrics
        self._clock = clock
        self._queue = BatchQueue(
            budget=budget, window_seconds=window_seconds, max_seconds=max_seconds, max_padding=max_padding
        )
        self.tokenizing = Tokenizing()
        self._requests: dict[Ticket, _Request] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._running = 0
        self._tokens_per_second = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        metrics.waiting.set_function(lambda: self._queue.items)
        metrics.waiting_tokens.set_function(lambda: self._queue.tokens)
        metrics.running.set_function(lambda: self._running)
        self._threads = [
            threading.Thread(target=self._work, name=f"inference-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    async def run(
        self,
        engine: Engine,
        tokens: Sequence[Tokens],
        *,
        deadline: float | None = None,
        alone: bool = False,
        background: bool = False,
    ) -> Answer:
        """Logits of inputs that are tokenised; given up, the request leaves the queue.

        `deadline` is on the clock of the batcher. With `alone` no other request's inputs are in its batches, so that
        their seconds are its own; in the `background` it runs only when no other request waits.

        Raises:
            TooLarge: an input is over the budget of a batch.
            Overloaded: too much waits; says after how many seconds there should be room.
            DeadlineExceeded: the answer would come too late; what had not begun is not computed.
            InferenceFailed: the graph did not compute an answer.
        """
        self._loop = asyncio.get_running_loop()
        now = self._clock()
        # Requests keep their engine, so its id is no other engine's while they wait.
        model = (id(engine), object() if alone else None)
        ticket = Ticket(model, [len(item) for item in tokens], now, deadline, background, engine.pace)
        logits = np.empty((len(tokens), len(engine.manifest.labels)), dtype=np.float32)
        request = _Request(engine, tokens, self._loop.create_future(), logits, len(tokens))
        with self._changed:
            self._admit(ticket)
            self._requests[ticket] = request
            self._queue.add(ticket)
            self._changed.notify()
        try:
            async with asyncio.timeout(None if deadline is None else max(deadline - now, 0)):
                return await request.answered
        except TimeoutError as error:
            if not background:
                self._metrics.deadline_misses.labels(engine.ref.task, engine.ref.variant).inc()
            raise DeadlineExceeded("the answer did not come in time: nothing more is computed for it") from error
        finally:
            with self._changed:
                self._queue.give_up(ticket)
                self._requests.pop(ticket, None)

    def close(self) -> None:
        """Take no more batches, and wait a while for those that run: a process that ends under a graph is aborted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.tokenizing.close()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def check_room(self, inputs: int, tokens: int) -> None:
        """Refuse what would wait behind too much. An empty queue takes any request, however large.

        Raises:
            Overloaded: there is no room for so many more; says after how many seconds there should be.
        """
        with self._changed:
            inputs, tokens = self._queue.items + inputs, self._queue.tokens + tokens
            if not self._queue.items or (inputs <= self.max_items and tokens <= self.max_tokens):
                return
            self._metrics.shed.labels("inputs" if inputs > self.max_items else "tokens").inc()
            seconds = self._seconds_until_room(inputs - self.max_items, tokens - self.max_tokens)
            raise Overloaded(
                f"{self._queue.items} inputs of {self._queue.tokens} tokens in all are waiting, and the limits are "
                f"{self.max_items} and {self.max_tokens}: try again in {seconds} s",
                seconds,
            )

    def _admit(self, ticket: Ticket) -> None:
        longest, budget = max(ticket.lengths), self._queue.budget
        if longest > budget:
            raise TooLarge(f"an input has {longest} tokens, a batch takes {budget}: shorten it")
        if ticket.background:
            if self._queue.background_items >= self.max_items:
                raise Overloaded("too much waits in the background", 1)
            return
        self.check_room(len(ticket.lengths), sum(ticket.lengths))
        self._refuse_what_would_be_late(ticket)

    def _refuse_what_would_be_late(self, ticket: Ticket) -> None:
        """An answer that could only come after its deadline is told at once, so that the client can go elsewhere."""
        if ticket.deadline is None or not self._queue.tokens or not self._tokens_per_second:
            return
        seconds = (self._queue.tokens + sum(ticket.lengths)) / self._tokens_per_second
        if ticket.arrived + seconds > ticket.deadline:
            self._metrics.shed.labels("deadline").inc()
            wait = max(math.ceil(seconds - (ticket.deadline - ticket.arrived)), 1)
            raise Overloaded(
                f"{self._queue.tokens} tokens are waiting: the answer would come in about {seconds:.1f} s, which is "
                f"after its deadline: try again in {wait} s",
                wait,
            )

    def _seconds_until_room(self, items: int, tokens: int) -> int:
        """When what is over the limits will have run at the present rate; at least a second, the header's unit."""
        if not self._tokens_per_second:
            return 1
        mean_length = self._queue.tokens / self._queue.items
        return max(math.ceil(max(tokens, items * mean_length) / self._tokens_per_second), 1)

    def _work(self) -> None:
        """A thread's life."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Wait for a batch and run it; False once the batcher is closed.

        Nothing of a batch outlives its run here: a model that was unloaded must not wait for the next batch to be gone.
        """
        with self._changed:
            while (batch := None if self._closing else self._queue.take(self._clock())) is None:
                if self._closing:
                    return False
                self._changed.wait()
            now = self._clock()
            requests = [self._requests[item.ticket] for item in batch.items]
            for item, request in zip(batch.items, requests, strict=True):
                if request.queue_seconds is None:
                    request.queue_seconds = now - item.ticket.arrived
            self._running += 1
        self._run(batch, requests)
        return True

    def _run(self, batch: Batch, requests: Sequence[_Request]) -> None:
        engine, began = requests[0].engine, self._clock()
        found: Logits | Exception
        try:
            tokens = [request.tokens[item.position] for item, request in zip(batch.items, requests, strict=True)]
            found = run_within_memory(engine.logits, tokens, lambda: self._metrics.halved(engine.ref))
            if found.shape != (len(tokens), len(engine.manifest.labels)):
                raise ValueError(f"{found.shape} logits for {len(tokens)} inputs")
            engine.health.succeeded()
        except Exception as error:  # whatever it is, the requests must hear of it, and this thread serves on
            found = error
            engine.health.failed()
            self._metrics.failed(engine.ref)
        seconds = self._clock() - began
        with self._changed:
            self._running -= 1
            rate = self.concurrency * batch.tokens / max(seconds, 1e-9)
            self._tokens_per_second += (rate - self._tokens_per_second) * (SMOOTHING if self._tokens_per_second else 1)
            engine.pace.ran(batch.padded_tokens, seconds)
        longest = len(batch.items) * engine.manifest.max_length
        self._metrics.ran(engine.ref, len(batch.items), batch.tokens, batch.padded_tokens, longest)
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for an answer any more
            self._loop.call_soon_threadsafe(_deliver, batch, requests, found, seconds)


def _deliver(batch: Batch, requests: Sequence[_Request], found: Logits | Exception, seconds: float) -> None:
    """On the event loop: give every request its rows, and answer those that have all of them."""
    name = f"{requests[0].engine.manifest.task}/{requests[0].engine.manifest.variant}"
    for request in dict.fromkeys(requests):
        request.inference_seconds += seconds
    for item, request in zip(batch.items, requests, strict=True):
        request.compute_seconds += seconds * item.length / batch.tokens
    for index, (item, request) in enumerate(zip(batch.items, requests, strict=True)):
        if request.answered.done():  # given up, or failed with another of its inputs
            continue
        if isinstance(found, Exception):
            request.answered.set_exception(InferenceFailed(f"{name} failed: {type(found).__name__}"))
        elif not np.isfinite(found[index]).all():
            # One input's fault must not be another request's.
            request.answered.set_exception(InferenceFailed(f"{name} answered with numbers that are not finite"))
        else:
            request.take(item.position, found[index])
