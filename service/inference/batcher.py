"""Batcher: admit requests by their cost, run them in batches on a few threads, and answer each with its last input.

An idle thread takes the next batch from the queue at once. On an idle server a request waits for nothing; under load
the next batch fills while others run.

Batches of a few milliseconds run on the event loop: the way to a thread and back takes as long as they do, and two
threads that compete for the interpreter take more CPU time than one that alternates between reading requests and
running them.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from sparserve.models.bundle.long_texts import WindowLimits
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.service.errors import DeadlineExceeded, InferenceFailed, Overloaded, TooLarge
from sparserve.service.inference.batch_queue import BatchQueue
from sparserve.service.inference.engine import Engine
from sparserve.service.inference.latency_model import LatencyModel
from sparserve.service.inference.running_batch import InferenceResult, Outcome, PendingRequest, RunningBatch, deliver
from sparserve.service.inference.throughput import Throughput
from sparserve.service.inference.ticket import Ticket
from sparserve.service.inference.tokenizer_pool import TokenizerPool
from sparserve.service.observability.metrics import Metrics

# Fraction of the limits of the queue that comes on top of them for clients with less than an equal share.
RESERVE: Final = 0.25
# A request that is predicted to take at most this long may run on the event loop, which answers nothing meanwhile.
LOOP_SECONDS: Final = 0.008
# Limit of such a batch together with others that wait: larger ones take less CPU time per request.
LOOP_BATCH_SECONDS: Final = 0.02
# A request is refused if its answer is predicted to take more than this fraction of the time to its deadline. Nearer to
# it, batches would become smaller so as to end in time, and answers would come too late for the way back.
DEADLINE_FRACTION: Final = 0.7
# Texts in JSON usually have fewer bytes for each token than this.
BYTES_PER_TOKEN: Final = 8
# Of a request that is not queued.
UNKNOWN: Final = LatencyModel()
# How long `close` waits for the last batch of a thread.
CLOSE_SECONDS: Final = 5.0


class Batcher:
    """Runs inputs on `concurrency` threads, off the event loop.

    Args:
        concurrency: batches that run at the same time.
        budget, max_seconds, max_padding: limits of a batch, as in `BatchQueue`.
        max_items, max_tokens: inputs, and tokens, that may wait; further requests are refused.
        window_limits: windows of a text and of a request; each window counts as an input.
        metrics: gets the state of the queue and counts batches.
        tokens_per_second: initial estimate of the throughput; 0 until the first batch by default.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        budget: int,
        max_seconds: float = math.inf,
        max_padding: float = 1.0,
        max_items: int,
        max_tokens: int,
        metrics: Metrics,
        window_limits: WindowLimits | None = None,
        tokens_per_second: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.concurrency = concurrency
        self.max_items = max_items
        self.max_tokens = max_tokens
        self.tokenizer_pool = TokenizerPool(window_limits)
        self._metrics = metrics
        self._clock = clock
        self._queue = BatchQueue(budget=budget, max_seconds=max_seconds, max_padding=max_padding)
        self._requests: dict[Ticket, PendingRequest] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closing = False
        self._running = 0
        self._loop_run_due = False
        self._throughput = Throughput(tokens_per_second)
        self._loop: asyncio.AbstractEventLoop | None = None
        metrics.batches.waiting.set_function(lambda: self._queue.items)
        metrics.batches.waiting_tokens.set_function(lambda: self._queue.tokens)
        metrics.batches.running.set_function(lambda: self._running)
        self._threads = [
            threading.Thread(target=self._work, name=f"inference-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> bool:
        """True while inputs wait, those in the background not counted."""
        return self._queue.front.items > 0

    @property
    def closing(self) -> bool:
        """True once `close` has been called."""
        return self._closing

    async def run(
        self,
        engine: Engine,
        tokens: Sequence[Tokens],
        *,
        deadline: float | None = None,
        alone: bool = False,
        background: bool = False,
        client: str = "",
        weight: float = 1.0,
    ) -> InferenceResult:
        """Return the logits of tokenised inputs. If the caller is cancelled, the request leaves the queue.

        `deadline` is on the clock of the batcher. With `alone`, no inputs of other requests share its batches, so that
        their times are its own. With `background`, it runs only when no other request waits. Each `client` gets a
        share of the machine in proportion to its `weight`.

        Raises:
            TooLarge: an input is over the budget of a batch; the message names the setting.
            Overloaded: too much is waiting; contains the seconds after which there should be room.
            DeadlineExceeded: the answer would be too late; batches that had not started are not run.
            InferenceFailed: the graph did not compute an answer.
        """
        loop = asyncio.get_running_loop()
        self._enter(loop)
        now = self._clock()
        # A waiting request holds its engine, so the id cannot be reused for another one.
        model = (id(engine), object() if alone else None)
        lengths = [len(item.ids) for item in tokens]
        ticket = Ticket(model, lengths, now, deadline, background, engine.latency, client, weight, engine.padding_costs)
        answer = np.empty((2, len(tokens), len(engine.manifest.labels)), dtype=np.float32)
        request = PendingRequest(engine, tokens, loop.create_future(), answer, len(tokens))
        with self._lock:
            self._admit(ticket)
            self._queue.add(ticket)
            self._requests[ticket] = request
            self._start_next()
        # `asyncio.timeout` would cancel the task, and takes ten times as long.
        timer = None if deadline is None else loop.call_later(max(deadline - now, 0), _expire, request.result)
        try:
            return await request.result
        except TimeoutError as error:
            if not background:
                self._metrics.requests.deadline_misses.labels(engine.ref.task, engine.ref.variant).inc()
            raise DeadlineExceeded("Deadline exceeded; the request was cancelled.") from error
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._queue.cancel(ticket)
                self._requests.pop(ticket, None)

    def close(self) -> None:
        """Start no more batches, and wait for the running ones: exiting in the middle of a graph aborts the process."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        self.tokenizer_pool.close()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def check_room(self, inputs: int, tokens: int, client: str = "") -> None:
        """Check that there is room for more inputs of a client. An empty queue accepts any request.

        `RESERVE` of the limits comes on top of them, for clients with less than an equal share of the limits waiting,
        so that no client can close the queue to others.

        Raises:
            Overloaded: there is no room; contains the seconds after which there should be.
        """
        if not self._queue.items:
            return
        with self._lock:
            more_inputs, more_tokens = inputs, tokens
            inputs, tokens = self._queue.items + inputs, self._queue.tokens + tokens
            if not self._queue.items or (inputs <= self.max_items and tokens <= self.max_tokens):
                return
            own = self._queue.holding(client)
            if (
                own.items + more_inputs <= self.max_items // own.clients
                and own.tokens + more_tokens <= self.max_tokens // own.clients
                and inputs <= self.max_items * (1 + RESERVE)
                and tokens <= self.max_tokens * (1 + RESERVE)
            ):
                return
            self._metrics.requests.shed.labels("inputs" if inputs > self.max_items else "tokens").inc()
            seconds = self._seconds_until_room(inputs - self.max_items, tokens - self.max_tokens)
            raise Overloaded(
                f"{self._queue.items} inputs with {self._queue.tokens} tokens are waiting, and the limits are "
                f"{self.max_items} and {self.max_tokens}: try again in {seconds} s",
                seconds,
            )

    def check_load(self, content_bytes: int, *, deadline: float | None, client: str, weight: float) -> None:
        """Refuse a request before its body is parsed if it would be refused even with few tokens.

        These are as many as its bytes suggest, but no more than a waiting input has on average. A request that passes
        may still be refused once its tokens are known.

        Raises:
            Overloaded: as in `run`.
        """
        items, tokens = self._queue.front.items, self._queue.front.tokens
        if items:
            tokens = max(min(content_bytes // BYTES_PER_TOKEN, tokens // items), 1)
            self._check_early(1, tokens, deadline, client, weight)

    def check_early(self, inputs: int, *, deadline: float | None, client: str, weight: float) -> None:
        """Refuse a request before it is tokenised if it would be refused even with inputs of one token.

        Raises:
            Overloaded: as in `run`.
        """
        if self._queue.front.items:
            self._check_early(inputs, inputs, deadline, client, weight)

    def _check_early(self, inputs: int, tokens: int, deadline: float | None, client: str, weight: float) -> None:
        now = 0.0 if deadline is None else self._clock()
        if self._is_easy(inputs, tokens, None if deadline is None else deadline - now):
            return
        ticket = Ticket(None, [tokens], now, deadline, latency=UNKNOWN, client=client, weight=weight)
        self.check_room(inputs, tokens, client)
        with self._lock:
            self._check_deadline(ticket)

    def _admit(self, ticket: Ticket) -> None:
        longest, budget = max(ticket.lengths), self._queue.budget
        if longest > budget:
            raise TooLarge(f"an input has {longest} tokens, a batch takes {budget} (max_batch_tokens): shorten it")
        if ticket.background:
            if self._queue.background_items >= self.max_items:
                raise Overloaded("too many background inputs are waiting", 1)
            return
        inputs, tokens, deadline = len(ticket.lengths), sum(ticket.lengths), ticket.deadline
        if not self._is_easy(inputs, tokens, None if deadline is None else deadline - ticket.arrived):
            self.check_room(inputs, tokens, ticket.client)
            self._check_deadline(ticket)

    def _is_easy(self, inputs: int, tokens: int, seconds_left: float | None) -> bool:
        """Return True if there is room for so much more, and if it is in time even after all that waits."""
        items, total = self._queue.front.items, self._queue.front.tokens + tokens
        if not items:
            return True
        if items + inputs > self.max_items or total > self.max_tokens:
            return False
        rate = self._throughput.tokens_per_second
        return seconds_left is None or not rate or total <= seconds_left * DEADLINE_FRACTION * rate

    def _check_deadline(self, ticket: Ticket) -> None:
        """Refuse a request at once if it cannot meet its deadline, so that the client can go elsewhere."""
        rate = self._throughput.tokens_per_second
        if ticket.deadline is None or not rate or not self._queue.tokens:
            return
        seconds_left = ticket.deadline - ticket.arrived
        allowed = seconds_left * DEADLINE_FRACTION
        seconds = self._queue.tokens_before(ticket) / rate
        if seconds > allowed:
            self._metrics.requests.shed_by_deadline()
            wait = max(math.ceil(seconds - allowed), 1)
            raise Overloaded(
                f"{self._queue.tokens} tokens are waiting: the answer would take about {seconds:.1f} s, and the "
                f"deadline is in {seconds_left:.1f} s: try again in {wait} s",
                wait,
            )

    def _seconds_until_room(self, items: int, tokens: int) -> int:
        """Return the time to run what is over the limits; at least 1 s, the unit of the header."""
        if not self._throughput.tokens_per_second:
            return 1
        mean_length = self._queue.tokens / self._queue.items
        return max(math.ceil(max(tokens, items * mean_length) / self._throughput.tokens_per_second), 1)

    def _work(self) -> None:
        """Run batches until the batcher is closed; the main function of a thread."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Wait for a batch and run it; return False once the batcher is closed.

        All references to the batch end with this call, so that an unloaded model is freed before the next batch.
        """
        with self._lock:
            while (batch := self._take_for_thread()) is None:
                if self._closing:
                    return False
                self._changed.wait()
            if self._queue.items or self._queue.background_items:
                self._changed.notify()  # a request may have inputs for several threads
        outcome = self._run(batch)
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: no request waits for an answer
            self._loop.call_soon_threadsafe(deliver, batch, outcome)
        return True

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            with self._lock:
                # What an earlier loop had still to do when it stopped will not be done.
                self._loop, self._loop_run_due = loop, False

    def _start_next(self) -> None:
        """Have a thread or the event loop run the next batch; called on the event loop, with the lock."""
        if self._loop_run_due:  # it will wake a thread if the batch does not fit
            return
        if not self._fits_loop(self._clock()):
            self._changed.notify()
        else:
            assert self._loop is not None
            self._loop_run_due = True
            # After the other sockets that are ready now, whose requests may run in the same batch.
            self._loop.call_soon(self._run_on_loop, self._queue.items)

    def _take_for_thread(self) -> RunningBatch | None:
        """Take the next batch from the queue, or leave it to the event loop if it fits there; called with the lock."""
        if self._closing or self._running >= self.concurrency:  # one of them may run on the event loop
            return None
        now = self._clock()
        if self.concurrency > 1 or not self._fits_loop(now):
            return self._take(now)
        if not self._loop_run_due:
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is closed: no request waits for an answer
                self._loop.call_soon_threadsafe(self._run_on_loop)
                self._loop_run_due = True
        return None

    def _fits_loop(self, now: float) -> bool:
        """Return True if the next batch can run on the event loop.

        With several threads for batches, only a short request that is alone can: otherwise they run in parallel.
        """
        return (
            not self._running
            and (self.concurrency == 1 or len(self._requests) == 1)
            and 0 < self._queue.next_seconds(now, whole=self.concurrency > 1) <= LOOP_SECONDS
        )

    def _run_on_loop(self, items_before: float = math.inf) -> None:
        """Run the next batch, or have a thread run it.

        If there were fewer items before the last look at the sockets, look at them once more: while the new ones were
        read, clients that the last batch has answered may have sent their next requests. Clients that each wait for an
        answer then share one batch, where they would form two groups in turn.
        """
        with self._lock:
            if items_before < self._queue.items:
                assert self._loop is not None
                self._loop.call_soon(self._run_on_loop)
                return
            self._loop_run_due = False
            if self._closing:
                return
            now = self._clock()
            if not self._fits_loop(now):
                self._changed.notify()
                return
            batch = self._take(now, LOOP_BATCH_SECONDS)
        if batch is None:
            return
        deliver(batch, self._run(batch))
        with self._lock:
            if self._queue.items or self._queue.background_items:
                self._start_next()

    def _take(self, now: float, max_seconds: float = math.inf) -> RunningBatch | None:
        """Take the next batch from the queue, with its requests; None if there is none."""
        batch = self._queue.take(now, max_seconds)
        if batch is None:
            return None
        requests = {ticket: self._requests[ticket] for ticket in batch.positions}
        for ticket, request in requests.items():
            if request.queue_seconds is None:
                request.queue_seconds = now - ticket.arrived
        self._running += 1
        return RunningBatch(batch, requests)

    def _run(self, running: RunningBatch) -> Outcome:
        batch, engine, started = running.batch, running.engine, self._clock()
        metrics = self._metrics.batches.of(engine.ref)
        results = running.run(metrics)
        failed = any(isinstance(result, InferenceFailed) for result in results.values())
        seconds = self._clock() - started
        with self._lock:
            self._running -= 1
            if not failed:  # it may have ended at once, and says nothing of those that run to their end
                engine.latency.observe(batch.cost_tokens, seconds)
                self._throughput.observe(
                    batch.tokens,
                    seconds / self.concurrency,
                    arrived=min(ticket.arrived for ticket in batch.positions),
                    now=started + seconds,
                    waiting=self._queue.items > 0,
                )
        metrics.ran(
            inputs=len(batch.items),
            tokens=batch.tokens,
            padded_tokens=batch.padded_tokens,
            max_tokens=len(batch.items) * engine.manifest.max_length,
        )
        return Outcome(results, seconds)


def _expire(result: asyncio.Future[InferenceResult]) -> None:
    if not result.done():
        result.set_exception(TimeoutError())
