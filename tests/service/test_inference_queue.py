"""The queue before the inference threads: bounded, in order, and it lets go of what was given up."""

import asyncio
import threading

import pytest
from fastapi.testclient import TestClient
from tiny_bundles import TASK

from service.errors import Overloaded
from service.inference import InferenceQueue
from service.metrics import Metrics

URL = f"/v1/models/{TASK}/classify"


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"sparserve_{name}")


def test_one_more_than_the_queue_holds_is_refused() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        queue = InferenceQueue(concurrency=1, max_waiting=2, metrics=metrics)
        release = threading.Event()
        order: list[int] = []

        def work(number: int) -> int:
            release.wait()
            order.append(number)
            return number

        tasks = [asyncio.create_task(queue.run(lambda number=number: work(number))) for number in range(3)]
        await asyncio.sleep(0)  # each has been admitted
        with pytest.raises(Overloaded) as refused:
            await queue.run(lambda: work(3))
        assert refused.value.retry_after_seconds >= 1
        assert value(metrics, "requests_shed_total") == 1
        release.set()
        assert [number for number, _ in await asyncio.gather(*tasks)] == [0, 1, 2] == order
        assert value(metrics, "inferences_running") == value(metrics, "requests_waiting") == 0
        assert (await queue.run(lambda: 4))[0] == 4
        queue.close()

    asyncio.run(scenario())


def test_no_more_than_the_concurrency_run_at_once() -> None:
    async def scenario() -> None:
        queue = InferenceQueue(concurrency=2, max_waiting=10, metrics=Metrics())
        both, lock, running = threading.Barrier(2), threading.Lock(), 0

        def work() -> int:
            nonlocal running
            with lock:
                running += 1
                seen = running
            both.wait(timeout=10)  # two must meet here, or it breaks
            with lock:
                running -= 1
            return seen

        answers = await asyncio.gather(*(queue.run(work) for _ in range(6)))
        assert max(seen for seen, _ in answers) == 2
        queue.close()

    asyncio.run(scenario())


def test_a_request_that_was_given_up_leaves_the_queue() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        queue = InferenceQueue(concurrency=1, max_waiting=1, metrics=metrics)
        release, ran = threading.Event(), []
        first = asyncio.create_task(queue.run(release.wait))
        waiting = asyncio.create_task(queue.run(lambda: ran.append("given up")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        third = asyncio.create_task(queue.run(lambda: ran.append("third")))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(first, third)
        assert ran == ["third"]
        assert value(metrics, "requests_waiting") == 0
        queue.close()

    asyncio.run(scenario())


def test_a_failure_frees_its_place() -> None:
    async def scenario() -> None:
        queue = InferenceQueue(concurrency=1, max_waiting=0, metrics=Metrics())
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await queue.run(lambda: 1 // 0)
        assert (await queue.run(lambda: 1))[0] == 1
        queue.close()

    asyncio.run(scenario())


def test_a_full_queue_is_429_over_http_while_probes_answer(serve, service_of) -> None:
    client: TestClient = serve(max_waiting=0)
    service = service_of(client)
    release, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        release.wait()

    assert client.portal
    blocked = client.portal.start_task_soon(service.inference.run, block)
    started.wait(timeout=10)
    answer = client.post(URL, json={"inputs": "good"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/readyz").status_code == 200
    assert "sparserve_requests_shed_total 1.0" in client.get("/metrics").text
    release.set()
    blocked.result(timeout=10)
    assert client.post(URL, json={"inputs": "good"}).status_code == 200
