"""Requests as batches on threads: admitted by cost, answered in order, let go of when given up."""

import asyncio
import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.service.errors import DeadlineExceeded, InferenceFailed, Overloaded, TooLarge
from sparserve.service.inference.batcher import LOOP_BATCH_SECONDS, LOOP_SECONDS, Batcher
from sparserve.service.inference.health import FAILURES_IN_ROW
from sparserve.service.inference.latency_model import LatencyModel
from sparserve.service.inference.running_batch import InferenceResult
from sparserve.service.observability.metrics import Metrics
from tests.support.service.fake_engine import FakeEngine, inputs

LIMITS = {"concurrency": 1, "budget": 32, "max_items": 8, "max_tokens": 64}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"sparserve_{name}", labels)


class UnknownLatency(LatencyModel):
    """Learns nothing, so that no batch runs on the event loop, where it could not be held up."""

    def observe(self, tokens: int, seconds: float) -> None:
        """Ignore a batch."""


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scenario(metrics: Metrics) -> Callable[..., Any]:
    """Run an async test with a batcher, which is closed at the end with nothing left in it."""

    def run(steps: Callable[..., Any], **limits: Any) -> None:
        async def main() -> None:
            batcher = Batcher(**{**LIMITS, **limits}, metrics=metrics)
            try:
                engine = FakeEngine()
                engine.latency = UnknownLatency()
                await steps(batcher, engine)
            finally:
                batcher.close()
            assert value(metrics, "inputs_waiting") == value(metrics, "tokens_waiting") == 0

        asyncio.run(main())

    return run


async def held_up(batcher: Batcher, engine: FakeEngine) -> asyncio.Task[InferenceResult]:
    """A request that runs until the engine's gate opens."""
    engine.gate.clear()
    while engine.begun.acquire(blocking=False):  # batches before this one
        pass
    task = asyncio.create_task(batcher.run(engine, inputs(3)))
    await asyncio.sleep(0)
    await asyncio.to_thread(engine.begun.acquire)
    return task


def test_batcher_keeps_order_of_inputs(scenario: Callable[..., None], metrics: Metrics) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        answer = await batcher.run(engine, inputs(9, 2, 30, 2, 11))
        assert answer.logits[:, 0].tolist() == [9, 2, 30, 2, 11]
        assert answer.inference_seconds > 0
        assert all(len(batch) * max(batch) <= 32 for batch in engine.batches)
        assert value(metrics, "batches_total", task="t", variant="dense") == len(engine.batches)
        padded = sum(len(batch) * max(batch) - sum(batch) for batch in engine.batches)
        assert value(metrics, "padding_tokens_total", task="t", variant="dense") == padded
        saved = sum(len(batch) * (32 - max(batch)) for batch in engine.batches)
        assert value(metrics, "padding_saved_tokens_total", task="t", variant="dense") == saved

    scenario(steps)


def test_batcher_batches_waiting_requests(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        others = [asyncio.create_task(batcher.run(engine, inputs(4, first=number))) for number in range(5)]
        await asyncio.sleep(0)
        engine.gate.set()
        answers = await asyncio.gather(*others)
        assert [answer.logits.tolist() for answer in answers] == [[[4, number]] for number in range(5)]
        assert engine.batches == [[3], [4, 4, 4, 4, 4]]
        assert all(answer.queue_seconds > 0 for answer in (await first, *answers))

    scenario(steps)


def test_batcher_alone_shares_no_batch(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        apart = asyncio.create_task(batcher.run(engine, inputs(4, 5), alone=True))
        other = asyncio.create_task(batcher.run(engine, inputs(4)))
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(first, apart, other)
        assert engine.batches == [[3], [4, 5], [4]]

    scenario(steps)


def test_batcher_refuses_over_limits(scenario: Callable[..., None], metrics: Metrics) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        many = asyncio.create_task(batcher.run(engine, inputs(*[2] * 8)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="8 inputs with 16 tokens are waiting") as refused:
            await batcher.run(engine, inputs(1))
        assert refused.value.retry_after_seconds >= 1
        assert value(metrics, "requests_shed_total", reason="inputs") == 1
        engine.gate.set()
        await asyncio.gather(first, many)
        # Tokens count as inputs do, and an empty queue takes whatever comes.
        first = await held_up(batcher, engine)
        long = asyncio.create_task(batcher.run(engine, inputs(30, 30, 30)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="with 90 tokens"):
            await batcher.run(engine, inputs(1))
        assert value(metrics, "requests_shed_total", reason="tokens") == 1
        engine.gate.set()
        assert (await long).logits[:, 0].tolist() == [30, 30, 30]
        await first

    scenario(steps)


def test_batcher_full_queue_admits_other_client(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        flood = [asyncio.create_task(batcher.run(engine, inputs(8), client="flood")) for _ in range(8)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.run(engine, inputs(4), client="other")) for _ in range(2)]
        await asyncio.sleep(0)
        for client in ("flood", "other", "third"):  # two inputs are the reserve
            with pytest.raises(Overloaded, match="10 inputs"):
                await batcher.run(engine, inputs(1), client=client)
        engine.gate.set()
        await asyncio.gather(first, *flood, *others)
        assert engine.batches[1] == [8, 8, 8, 8]
        assert engine.batches[2] == [4, 4, 8, 8]

    scenario(steps)


def test_batcher_retry_after_follows_throughput(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        waiting = asyncio.create_task(batcher.run(engine, inputs(*[5] * 8)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await batcher.run(engine, inputs(*[5] * 8))  # 16 over 64 tokens, and 8 inputs of 5 over 8
        assert refused.value.retry_after_seconds == 20
        engine.gate.set()
        await asyncio.gather(first, waiting)

    scenario(steps, tokens_per_second=2.0)


def test_batcher_refuses_input_over_budget(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        with pytest.raises(TooLarge, match="33 tokens, a batch takes 32"):
            await batcher.run(engine, inputs(4, 33))
        assert not engine.batches

    scenario(steps)


def test_batcher_cancelled_request_leaves_queue(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        cancelled = asyncio.create_task(batcher.run(engine, inputs(7, 7)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        engine.gate.set()
        await asyncio.gather(first, batcher.run(engine, inputs(5)))
        assert engine.batches == [[3], [5]]

    scenario(steps)


def test_batcher_skips_expired_requests(scenario: Callable[..., None], metrics: Metrics) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        with pytest.raises(DeadlineExceeded, match="Deadline exceeded"):
            await batcher.run(engine, inputs(7), deadline=time.perf_counter() + 0.01)
        assert value(metrics, "deadline_misses_total", task="t", variant="dense") == 1
        engine.gate.set()
        await first
        await batcher.run(engine, inputs(5), deadline=time.perf_counter() + 60)
        assert engine.batches == [[3], [5]]

    scenario(steps)


def test_batcher_refuses_hopeless_deadline(scenario: Callable[..., None], metrics: Metrics) -> None:
    seconds = itertools.count()

    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        await batcher.run(engine, inputs(3))  # each reading advances the clock by a second: 3 tokens took seconds
        first = await held_up(batcher, engine)
        waiting = asyncio.create_task(batcher.run(engine, inputs(30)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"and the deadline is in 4.0 s: try again in"):
            await batcher.run(engine, inputs(20), deadline=next(seconds) + 5)
        with pytest.raises(Overloaded, match=r"and the deadline is in 4.0 s: try again in"):
            batcher.check_early(1, deadline=next(seconds) + 5, client="", weight=1)
        batcher.check_early(1, deadline=next(seconds) + 60, client="", weight=1)
        batcher.check_early(1, deadline=None, client="", weight=1)
        assert value(metrics, "requests_shed_total", reason="deadline") == 2
        engine.gate.set()
        await asyncio.gather(first, waiting)
        assert engine.batches == [[3], [3], [30]]

    scenario(steps, clock=lambda: float(next(seconds)))


def test_batcher_refuses_by_the_size_of_a_body(scenario: Callable[..., None], metrics: Metrics) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        limits: dict[str, Any] = {"deadline": 6.0, "client": "", "weight": 1.0}  # 42 tokens are in time
        batcher.check_load(8000, **limits)
        first = await held_up(batcher, engine)
        waiting = asyncio.create_task(batcher.run(engine, inputs(30)))
        await asyncio.sleep(0)
        assert batcher.waiting
        batcher.check_load(8 * 10, **limits)
        for content_bytes in (8 * 20, 8000):  # no more than the mean of those that wait
            with pytest.raises(Overloaded, match="30 tokens are waiting: the answer would take about"):
                batcher.check_load(content_bytes, **limits)
        batcher.check_load(8000, deadline=9.0, client="", weight=1.0)
        assert value(metrics, "requests_shed_total", reason="deadline") == 2
        engine.gate.set()
        await asyncio.gather(first, waiting)

    scenario(steps, tokens_per_second=10.0, clock=lambda: 0.0)


def test_batcher_isolates_bad_input(scenario: Callable[..., None]) -> None:
    class Poisoned(FakeEngine):
        def logits(self, tokens: Sequence[Tokens]) -> Any:
            logits = super().logits(tokens)
            logits[logits[:, 1] == 9] = np.nan
            return logits

    async def steps(batcher: Batcher, _: FakeEngine) -> None:
        engine = Poisoned()
        first = await held_up(batcher, engine)
        bad = asyncio.create_task(batcher.run(engine, inputs(4, first=9)))
        good = asyncio.create_task(batcher.run(engine, inputs(4)))
        await asyncio.sleep(0)
        engine.gate.set()
        await first
        with pytest.raises(InferenceFailed, match="not finite"):
            await bad
        assert (await good).logits.tolist() == [[4, 1]]
        assert engine.batches == [[3], [4, 4]]

    scenario(steps)


def test_batcher_failed_batch_runs_its_requests_apart(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        logits = engine.logits

        def reject(tokens: Sequence[Tokens]) -> Any:
            if any(item.ids[0] == 7 for item in tokens):
                raise ValueError("an id past the table")
            return logits(tokens)

        engine.logits = reject  # type: ignore[method-assign]
        for _ in range(FAILURES_IN_ROW + 1):
            first = await held_up(batcher, engine)
            others = [asyncio.create_task(batcher.run(engine, inputs(4, first=number))) for number in (1, 7, 2)]
            await asyncio.sleep(0)
            engine.gate.set()
            await first
            good, bad, other = await asyncio.gather(*others, return_exceptions=True)
            assert isinstance(good, InferenceResult) and good.logits.tolist() == [[4, 1]]
            assert isinstance(bad, InferenceFailed)
            assert isinstance(other, InferenceResult) and other.logits.tolist() == [[4, 2]]
            with pytest.raises(InferenceFailed):
                await batcher.run(engine, inputs(4, first=7))
        assert engine.health.healthy

    scenario(steps)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_batcher_runs_short_batches_on_the_loop(scenario: Callable[..., None], concurrency: int) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        threads: list[str] = []
        logits = engine.logits

        def run(tokens: Sequence[Tokens]) -> Any:
            threads.append(threading.current_thread().name)
            return logits(tokens)

        engine.logits = run  # type: ignore[method-assign]

        async def ran_on(latency: LatencyModel, requests: int = 1, items: int = 1) -> set[str]:
            engine.latency = latency
            threads.clear()
            engine.batches.clear()
            await asyncio.gather(*(batcher.run(engine, inputs(*[4] * items)) for _ in range(requests)))
            return set(threads)

        here = {threading.current_thread().name}
        assert not await ran_on(LatencyModel()) & here, "nothing is known of its time"
        assert not await ran_on(LatencyModel(2 * LOOP_SECONDS)) & here, "it takes long"
        assert await ran_on(LatencyModel(LOOP_SECONDS / 2)) == here
        assert engine.batches == [[4]]
        assert (await ran_on(LatencyModel(LOOP_SECONDS / 2), requests=3) == here) == (concurrency == 1)
        many = await ran_on(LatencyModel(0, LOOP_SECONDS / 8), items=8)
        assert (many == here) == (concurrency == 1), "a request of many inputs takes long"
        await ran_on(LatencyModel(LOOP_SECONDS / 2, LOOP_BATCH_SECONDS / 32), requests=7)
        assert concurrency > 1 or engine.batches == [[4] * 6, [4]], "a batch on the loop is limited"

    scenario(steps, concurrency=concurrency)


def test_batcher_waits_for_requests_that_come_while_others_are_read(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        engine.latency = LatencyModel(LOOP_SECONDS / 2)
        loop, sent = asyncio.get_running_loop(), []

        def send() -> None:
            sent.append(loop.create_task(batcher.run(engine, inputs(4))))

        loop.call_soon(lambda: loop.call_soon(send))  # its request enters one turn of the loop after the first two
        send()
        send()
        while len(sent) < 3:
            await asyncio.sleep(0)
        await asyncio.gather(*sent)
        assert engine.batches == [[4, 4, 4]]

    scenario(steps)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_batcher_answers_all_that_threads_and_the_loop_share(scenario: Callable[..., None], concurrency: int) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        class Fixed(LatencyModel):
            def observe(self, tokens: int, seconds: float) -> None:
                """Stay as it is."""

        engine.latency = Fixed(LOOP_SECONDS / 2)
        slow = FakeEngine("slow")
        slow.latency = Fixed(2 * LOOP_SECONDS)

        async def client(number: int) -> None:
            for turn in range(40):
                await batcher.run(slow if (number + turn) % 3 else engine, inputs(4))

        async with asyncio.timeout(60):
            await asyncio.gather(*(client(number) for number in range(4)))

    scenario(steps, concurrency=concurrency)


def test_batcher_runs_no_background_batch_on_the_loop(scenario: Callable[..., None]) -> None:
    now = [0.0]

    class Watched(FakeEngine):
        def logits(self, tokens: Sequence[Tokens]) -> Any:
            self.thread = threading.current_thread()
            return super().logits(tokens)

    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        quick, other = FakeEngine("quick"), Watched("other")
        quick.latency = LatencyModel(LOOP_SECONDS / 2)
        background = asyncio.create_task(batcher.run(other, inputs(30), background=True))
        late = asyncio.create_task(batcher.run(quick, inputs(4), deadline=60.0))
        await asyncio.sleep(0)
        now[0] = 60 - LOOP_SECONDS / 4  # its turn comes, but too late
        engine.gate.set()
        await asyncio.gather(first, background)
        assert other.thread is not threading.current_thread()
        late.cancel()
        await asyncio.wait([late])
        assert not quick.batches

    scenario(steps, clock=lambda: now[0])


def test_batcher_runs_on_a_thread_while_others_wait(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        engine.latency = UnknownLatency(LOOP_SECONDS / 2)
        others = [asyncio.create_task(batcher.run(engine, inputs(4))) for _ in range(3)]
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(first, *others)
        assert engine.batches[-1] == [4, 4, 4]

    scenario(steps)


def test_batcher_survives_failing_graph(scenario: Callable[..., None]) -> None:
    class Broken(FakeEngine):
        def logits(self, tokens: Sequence[Tokens]) -> Any:
            raise RuntimeError("with a secret text in it")

    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        for _ in range(3):
            with pytest.raises(InferenceFailed, match=r"t/broken failed: RuntimeError$"):
                await batcher.run(Broken("broken"), inputs(4, 20))
        assert (await batcher.run(engine, inputs(5))).logits.tolist() == [[5, 1]]

    scenario(steps)


def test_batcher_learns_nothing_from_a_failed_batch(scenario: Callable[..., None]) -> None:
    now = [0.0]

    class Slow(FakeEngine):
        def logits(self, tokens: Sequence[Tokens]) -> Any:
            if tokens[0].ids[0] == 7:
                raise ValueError("an id past the table")
            now[0] += 1
            return super().logits(tokens)

        def answers(self) -> bool:
            return True

    async def steps(batcher: Batcher, _: FakeEngine) -> None:
        engine = Slow()
        await batcher.run(engine, inputs(4))
        with pytest.raises(InferenceFailed):
            await batcher.run(engine, inputs(4, first=7))
        assert engine.latency.seconds(4) == pytest.approx(1), "else the next long batch would run on the loop"

    scenario(steps, clock=lambda: now[0])


@pytest.mark.parametrize("latency", [UnknownLatency(), LatencyModel(LOOP_SECONDS / 2)], ids=["thread", "loop"])
def test_batcher_answers_though_a_failure_cannot_be_handled(
    scenario: Callable[..., None], monkeypatch: pytest.MonkeyPatch, latency: LatencyModel
) -> None:
    def fail() -> None:
        raise MemoryError

    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        engine.latency = latency
        with monkeypatch.context() as patch:
            patch.setattr(engine.health, "succeeded", fail)
            async with asyncio.timeout(10):
                with pytest.raises(InferenceFailed, match=r"t/dense failed: MemoryError$"):
                    await batcher.run(engine, inputs(4))
        async with asyncio.timeout(10):
            assert (await batcher.run(engine, inputs(5))).logits.tolist() == [[5, 1]]

    scenario(steps)


def test_batcher_refuses_missing_logits(scenario: Callable[..., None]) -> None:
    class Forgetful(FakeEngine):
        def logits(self, tokens: Sequence[Tokens]) -> Any:
            return super().logits(tokens)[:1]

    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        forgetful = Forgetful("forgetful")
        with pytest.raises(InferenceFailed, match=r"t/forgetful failed: ValueError$"):
            await batcher.run(forgetful, inputs(4, 4))
        assert (await batcher.run(forgetful, inputs(4))).logits.tolist() == [[4, 1]]

    scenario(steps)


def test_batcher_shares_time_by_tokens(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        first = await held_up(batcher, engine)
        small = asyncio.create_task(batcher.run(engine, inputs(4)))
        large = asyncio.create_task(batcher.run(engine, inputs(4, 8)))
        await asyncio.sleep(0)
        engine.gate.set()
        alone, one, other = await asyncio.gather(first, small, large)
        assert engine.batches == [[3], [4, 4, 8]]
        assert alone.compute_seconds == alone.inference_seconds > 0
        assert one.inference_seconds == other.inference_seconds
        assert one.compute_seconds == pytest.approx(one.inference_seconds / 4)
        assert other.compute_seconds == pytest.approx(other.inference_seconds * 3 / 4)

    scenario(steps)


def test_batcher_releases_engine(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        gone = FakeEngine("gone")
        watch = weakref.ref(gone)
        await batcher.run(gone, inputs(4))
        del gone
        while watch() is not None:  # its thread is about to wait for the next batch
            gc.collect()
            await asyncio.sleep(0)

    scenario(steps)


def test_batcher_runs_batches_concurrently(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        both = threading.Barrier(2)

        class Meeting(FakeEngine):
            def logits(self, tokens: Sequence[Tokens]) -> Any:
                both.wait(timeout=10)  # two must meet here, or it breaks
                return super().logits(tokens)

        meeting = Meeting()
        answers = await asyncio.gather(*(batcher.run(meeting, inputs(32)) for _ in range(6)))
        assert [answer.logits[0, 0] for answer in answers] == [32] * 6

    scenario(steps, concurrency=2, max_tokens=1000)


def test_batcher_divides_a_request_between_threads(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        both = threading.Barrier(2)

        class Meeting(FakeEngine):
            def logits(self, tokens: Sequence[Tokens]) -> Any:
                both.wait(timeout=10)
                return super().logits(tokens)

        answer = await batcher.run(Meeting(), inputs(*[32] * 6))
        assert answer.logits[:, 0].tolist() == [32] * 6

    scenario(steps, concurrency=2, max_tokens=1000)


def test_batcher_counts_the_batch_on_the_loop(scenario: Callable[..., None]) -> None:
    async def steps(batcher: Batcher, engine: FakeEngine) -> None:
        class Quick(FakeEngine):
            def logits(self, tokens: Sequence[Tokens]) -> Any:
                while engine.begun.acquire(blocking=False):  # batches before this one
                    pass
                self.alone = not engine.begun.acquire(timeout=0.02)
                return super().logits(tokens)

        quick = Quick("quick")
        for _ in range(20):  # the thread is woken by the first request, while the loop runs the second one
            quick.latency = LatencyModel(LOOP_SECONDS / 2)
            await asyncio.gather(batcher.run(engine, inputs(4), background=True), batcher.run(quick, inputs(4)))
            assert quick.alone

    scenario(steps)


def test_batcher_close_waits_for_running_batches(metrics: Metrics) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        batcher, engine = Batcher(**LIMITS, metrics=metrics), FakeEngine()
        first = await held_up(batcher, engine)
        waiting = asyncio.create_task(batcher.run(engine, inputs(5), background=True))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while not batcher.closing:
            await asyncio.sleep(0)
        assert not closing.done()
        engine.gate.set()
        await closing
        started = set(threading.enumerate()) - before
        assert not any(thread.name.startswith("inference-") for thread in started)
        await first
        waiting.cancel()
        await asyncio.wait([waiting])
        assert engine.batches == [[3]]

    asyncio.run(main())
