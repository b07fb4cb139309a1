"""Load of the serving benchmark: texts, arrivals, figures, the search for the highest rate, and the generator."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.load.connection import GAVE_UP, NO_ANSWER, ConnectionPool
from benchmarks.serving.load.generator import Load, generate
from benchmarks.serving.load.ideal_server import latencies, rate_without_overhead
from benchmarks.serving.load.rate_search import RateSearch, summary
from benchmarks.serving.load.texts import LONGEST, SHORTEST, lengths, poisson_arrivals, texts


def test_poisson_arrivals_have_given_rate() -> None:
    arrivals = poisson_arrivals(200, 100, seed=3)
    assert arrivals[0] >= 0 and arrivals[-1] < 100
    gaps = np.diff(arrivals)
    assert (gaps >= 0).all()
    # Gaps are exponential: their mean is 1 / rate, their deviation equals it, and 1 - 1/e are shorter than it.
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.03)
    assert (gaps < 1 / 200).mean() == pytest.approx(1 - 1 / math.e, abs=0.02)
    counts = np.histogram(arrivals, bins=100)[0]
    assert counts.var() == pytest.approx(200, rel=0.4)


def test_load_is_reproducible() -> None:
    assert np.array_equal(poisson_arrivals(50, 4, 1), poisson_arrivals(50, 4, 1))
    assert not np.array_equal(poisson_arrivals(50, 4, 1), poisson_arrivals(50, 4, 2))
    assert texts(20, 0) == texts(20, 0) != texts(20, 1)


def test_lengths_have_realistic_spread() -> None:
    found = lengths(5_000, 0)
    assert found.min() == SHORTEST and found.max() == LONGEST
    assert np.median(found) < found.mean() < 2 * np.median(found)
    assert [len(text.split()) + 2 for text in texts(50, 0)] == lengths(50, 0).tolist()
    assert max(lengths(500, 0, longest=16)) == 16


def outcome(rows: Any) -> Any:
    due, latency, status = zip(*rows, strict=True)
    return {"due": due, "latency": latency, "status": status, "lag": [0.0] * len(rows), "processor": 0.1}


def test_summary_goodput_counts_timely_answers() -> None:
    rows = [
        (0.2, 0.1, 200),  # in the first second
        (0.5, 0.9, 200),
        (2.0, 1.5, 200),  # too late for its client
        (3.0, 0.2, 503),
        (3.5, 10.0, 0),
        (4.0, 0.5, 200),
        (4.9, 0.3, 200),  # after the end
    ]
    found = summary(outcome(rows), seconds=5, limit=1.0)
    assert found["goodput"] == 2 / 4
    assert found["statuses"] == {"0": 1, "200": 5, "503": 1}
    assert found["shed"] == pytest.approx(1 / 7)
    assert found["failed"] == pytest.approx(2 / 7)
    assert found["longest"] == 10.0
    assert found["p99_answered"] == 1.5


def test_summary_treats_missing_answer_as_infinite() -> None:
    rows = [(0.0, 0.01 * (index + 1), 200) for index in range(98)]
    assert summary(outcome([*rows, (0.0, 0.001, 429)]), 1, 1)["p99"] is None
    many = rows + [(0.0, 0.5, 200)] * 900
    found = summary(outcome([*many, (0.0, 0.001, 429)]), 1, 1)
    assert found["p99"] == pytest.approx(0.90)  # the 990th of 999
    assert found["p50"] == 0.5
    assert summary(outcome([*many, *[(0.0, 0.001, -1)] * 20]), 1, 1)["p99"] is None


def drive(search: Any, capacity: Any, *, hiccups: Any = ()) -> Any:
    """Drive a search against a server of this capacity; at the points of `hiccups` the machine is slightly busy."""
    asked = []
    while (rate := search.rate) is not None:
        asked.append(rate)
        near = 0.15 if len(asked) - 1 in hiccups else 0.05
        search.record(near if rate <= capacity else None)
    return asked


@pytest.mark.parametrize("capacity", [3.0, 47.0, 50.0, 1234.0])
def test_rate_search_finds_highest_rate(capacity: Any) -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30)
    asked = drive(search, capacity)
    assert search.is_finished and search.passed <= capacity < search.passed * 1.05
    assert len(asked) < 14


def test_rate_search_survives_one_slow_moment() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30)
    asked = drive(search, 300, hiccups=(1,))
    assert asked[:4] == [50, 100, 100, 200]
    assert search.passed == pytest.approx(300, rel=0.05)


def test_rate_search_fails_after_two_slow_moments() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30)
    asked = drive(search, 300, hiccups=(1, 2))
    assert asked[1:3] == [100, 100]
    assert 90 < search.passed < 100


def test_rate_search_ends_for_dead_server() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=6)
    assert len(drive(search, 0)) == 6
    assert search.passed == 0 and not search.is_finished


def test_rate_search_near_start_needs_few_points() -> None:
    search = RateSearch(start=85, limit=0.1, max_points=30, growth=1.2)
    asked = drive(search, 100)
    assert asked[:2] == [85, pytest.approx(102)]
    assert search.is_finished and len(asked) <= 5


def test_rate_search_with_small_growth_reaches_distant_rate() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30, growth=1.2)
    asked = drive(search, 1600)
    assert asked[1:4] == [pytest.approx(60), pytest.approx(60 * 1.44), pytest.approx(60 * 1.44 * 2)]
    assert search.is_finished and search.passed <= 1600 < search.passed * 1.05


def test_ideal_server_runs_texts_in_order() -> None:
    found = latencies(np.array([0.0, 0.1, 0.2, 5.0]), np.array([1.0, 0.5, 0.1, 0.2]))
    assert found == pytest.approx([1.0, 1.4, 1.4, 0.2])


def test_rate_without_overhead_is_bounded_by_waiting() -> None:
    counts = lengths(512, 0).tolist()

    def part(texts_per_second: float) -> float:
        search = RateSearch(0.85 * texts_per_second, limit=0.1, growth=1.2)
        return rate_without_overhead(counts, texts_per_second, 20, search) / texts_per_second

    assert 0.45 < part(88) < 0.75
    assert 0.9 < part(1100) <= 1.05


def test_summary_has_server_cpu_per_answer() -> None:
    rows = [(0.1, 0.1, 200), (0.2, 0.1, 200), (0.3, 0.1, 503)]
    assert summary({**outcome(rows), "server_seconds": 0.5}, 1, 1)["server_cpu"] == 0.25
    assert summary(outcome(rows), 1, 1)["server_cpu"] is None
    assert summary({**outcome(rows[2:]), "server_seconds": 0.5}, 1, 1)["server_cpu"] is None


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def listening(*answers: bytes | None) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve these answers in turn, the last one again and again; None closes the connection without an answer.

    Yields the URL and the number of requests per connection.
    """
    connections: list[int] = []
    left, tasks = list(answers), set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        connections.append(0)
        number = len(connections) - 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                connections[number] += 1
                answer = left.pop(0) if len(left) > 1 else left[0]
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/path", connections
        await asyncio.gather(*tasks)


def test_connection_pool_reuses_connection() -> None:
    async def main() -> None:
        async with listening(ANSWER) as (url, connections):
            pool = ConnectionPool(url)
            assert [await pool.ask(pool.request("{}", {}), 5) for _ in range(3)] == [200] * 3
            assert connections == [3]
            assert await asyncio.gather(*(pool.ask(pool.request("{}", {}), 5) for _ in range(2))) == [200, 200]
            assert len(connections) == 2
            pool.close()

    asyncio.run(main())


def test_connection_pool_reads_chunks_and_statuses() -> None:
    chunked = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    closing = b"HTTP/1.1 429 Later\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    async def main() -> None:
        async with listening(chunked, closing, ANSWER) as (url, connections):
            pool = ConnectionPool(url)
            assert [await pool.ask(pool.request("{}", {}), 5) for _ in range(3)] == [503, 429, 200]
            assert connections == [2, 1]
            pool.close()

    asyncio.run(main())


def test_connection_pool_without_answer() -> None:
    async def main() -> None:
        async with listening(None) as (url, _):
            pool = ConnectionPool(url)
            assert await pool.ask(pool.request("{}", {}), 5) == NO_ANSWER
        assert await pool.ask(pool.request("{}", {}), 5) == NO_ANSWER  # nobody listens
        async with listening(b"") as (url, connections):
            pool = ConnectionPool(url)
            assert await pool.ask(pool.request("{}", {}), 0.01) == GAVE_UP
            assert await pool.ask(pool.request("{}", {}), 0.01) == GAVE_UP
            assert connections == [1, 1]  # a late answer must not be taken for the next one

    asyncio.run(main())


def test_connection_pool_survives_close_of_idle_connection() -> None:
    async def main() -> None:
        async with listening(ANSWER, None, ANSWER) as (url, connections):
            pool = ConnectionPool(url)
            assert [await pool.ask(pool.request("{}", {}), 5) for _ in range(2)] == [200, 200]
            assert connections == [2, 1]
            pool.close()

    asyncio.run(main())


def test_generator_reports_every_request() -> None:
    async def main() -> None:
        async with listening(ANSWER) as (url, connections):
            closed = await generate(Load(url, ["{}", "[]"], 0.05, clients=2))
            assert set(closed.status) == {200} and len(closed.latency) == len(closed.due) == sum(connections)
            assert len(connections) == 2 and closed.server_seconds is None
            sent = await generate(Load(url, ["{}"], 0.1, rate=200, seed=1))
            assert len(sent.status) == len(poisson_arrivals(200, 0.1, 1))

    asyncio.run(main())
