"""Connections of clients that send too slowly, too much, or do not read; uvicorn and sockets are the real ones."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from sparserve.service.observability.metrics import Metrics
from sparserve.service.server.connection import MAX_HEAD_BYTES, Connection, allow_descriptors
from tests.support.service.raw_connections import DEADLINE_SECONDS, exchange, serving

SECONDS = 0.3
LONG = 8 * 2**20  # bytes that no socket's buffers hold
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, whatever of the body has come, with as many bytes as the path says."""
    content = bytes(int(scope["path"].strip("/") or 2))
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def run(test: Callable[[int, Metrics], Coroutine[Any, Any, None]], seconds: float = SECONDS) -> Metrics:
    metrics = Metrics()

    async def main() -> None:
        async with serving(app, metrics, seconds) as port:
            await test(port, metrics)

    asyncio.run(main())
    return metrics


def given_up(metrics: Metrics) -> dict[str, float]:
    registry: CollectorRegistry = metrics.registry
    name = "sparserve_connections_given_up_total"
    reasons = ("slow_head", "large_head", "large_trailers", "not_reading")
    found = {reason: registry.get_sample_value(name, {"reason": reason}) or 0 for reason in reasons}
    return {reason: count for reason, count in found.items() if count}


def problem(content: bytes, status: int) -> dict[str, Any]:
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), content
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"content-length: %d" % len(body) in head.lower()
    found: dict[str, Any] = json.loads(body)
    assert found["status"] == status
    return found


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "second"])
def test_connection_slow_head_is_408(before: bytes) -> None:
    async def test(port: int, metrics: Metrics) -> None:
        content = await exchange(port, before, b"GET / HTTP/1.1\r\nHost: x\r\nX-A")
        assert content.count(b"HTTP/1.1 200 ") == bool(before)
        assert "within 0.3 s" in problem(content[content.index(b"HTTP/1.1 408 ") :], 408)["detail"]

    metrics = run(test)
    assert given_up(metrics) == {"slow_head": 1}
    labels = {"method": "other", "route": "unmatched", "status": "408"}
    assert metrics.registry.get_sample_value("sparserve_http_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("sparserve_connections") == 0


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "empty lines"])
def test_connection_without_request_is_closed(sent: bytes) -> None:
    async def test(port: int, metrics: Metrics) -> None:
        assert await exchange(port, sent) == b""

    assert given_up(run(test)) == {"slow_head": 1}


def test_empty_lines_after_an_answer_keep_no_connection() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WHOLE)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert (await reader.read(65_536)).endswith(b"\0\0")
            writer.write(b"\r\n")
            assert await reader.read() == b""
        writer.close()

    assert given_up(run(test)) == {"slow_head": 1}


def test_connection_trickling_head_is_408() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX-A: ")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not reader.at_eof():
                writer.write(b"a")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(65_536), SECONDS / 10)
        writer.close()

    assert given_up(run(test)) == {"slow_head": 1}


CHUNKED = b"POST /hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("trailers", [b"X-A: b\r\n" * 20_000, b"X-A: " + b"a" * 160_000], ids=["many", "long"])
def test_connection_limits_trailers(trailers: bytes) -> None:
    heads: list[int] = []

    async def holding(scope: Scope, receive: Receive, send: Send) -> None:
        """Reads to the end, like the service, and then returns the head."""
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        heads.append(len(scope["headers"]))

    async def main(metrics: Metrics) -> None:
        async with serving(holding, metrics) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CHUNKED + b"4\r\ngood\r\n0\r\n")
            with contextlib.suppress(ConnectionError):
                for begin in range(0, len(trailers), 16_000):
                    writer.write(trailers[begin : begin + 16_000])
                    await writer.drain()
                    await asyncio.sleep(0)
                async with asyncio.timeout(DEADLINE_SECONDS):
                    assert await reader.read() == b""
            writer.close()

    metrics = Metrics()
    asyncio.run(main(metrics))
    assert given_up(metrics) == {"large_trailers": 1}
    assert heads == [2]


def test_connection_accepts_small_chunks_and_trailer() -> None:
    bodies: list[bytes] = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        bodies.append(body)
        assert [name for name, _ in scope["headers"]] == [b"host", b"transfer-encoding"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def main(metrics: Metrics) -> None:
        async with serving(reading, metrics) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CHUNKED)
            for _ in range(40):
                writer.write(b"1000\r\n" + b"a" * 4096 + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\nX-Digest: abc\r\n\r\n")
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert (await reader.read(65_536)).startswith(b"HTTP/1.1 204 ")
            writer.close()

    metrics = Metrics()
    asyncio.run(main(metrics))
    assert bodies == [b"a" * 4096 * 40] and not given_up(metrics)


def test_connection_large_head_is_431() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX-A: " + b"a" * MAX_HEAD_BYTES)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert "shorter headers" in problem(await reader.read(), 431)["detail"]
        writer.close()

    assert given_up(run(test, seconds=DEADLINE_SECONDS)) == {"large_head": 1}


def test_connection_large_body_is_not_a_large_head() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        body = bytes(4 * MAX_HEAD_BYTES)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        content = await exchange(port, head, body, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert content.count(b"HTTP/1.1 200 ") == 2

    assert given_up(run(test, seconds=DEADLINE_SECONDS)) == {}


def test_connection_non_http_is_400() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        assert "not an HTTP/1.1 request" in problem(await exchange(port, b"\x16\x03\x01hello\r\n\r\n"), 400)["detail"]

    assert given_up(run(test)) == {}


def test_connection_closes_client_that_does_not_read() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % LONG)
            async with asyncio.timeout(DEADLINE_SECONDS):
                while metrics.registry.get_sample_value("sparserve_connections") != 0 or not given_up(metrics):
                    await asyncio.sleep(SECONDS / 10)

    assert given_up(run(test)) == {"not_reading": 1}


def test_connection_serves_slow_reader() -> None:
    async def test(port: int, metrics: Metrics) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            loop, got = asyncio.get_running_loop(), 0
            await loop.sock_sendall(client, b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % LONG)
            while part := await loop.sock_recv(client, LONG // 8):
                got += len(part)
                await asyncio.sleep(SECONDS / 4)
            assert got > LONG

    assert given_up(run(test)) == {}


def test_connection_answers_a_client_that_is_late_with_its_first_request_at_shutdown() -> None:
    async def main() -> None:
        stopping = asyncio.Event()

        class Watched(Connection):
            def shutdown(self) -> None:
                super().shutdown()
                stopping.set()

        async def send_late(port: int, *parts: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            connected.release()
            await stopping.wait()
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0)
            content = await reader.read()
            writer.close()
            return content

        connected = asyncio.Semaphore(0)
        async with asyncio.timeout(DEADLINE_SECONDS), serving(app, Metrics(), connection=Watched) as port:
            clients = [asyncio.create_task(send_late(port, *parts)) for parts in ([WHOLE], [WHOLE[:9], WHOLE[9:]], [])]
            for _ in clients:
                await connected.acquire()
            assert (await exchange(port, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\0\0")  # all are accepted by now
        whole, half, silent = await asyncio.gather(*clients)
        for answer in (whole, half):
            assert answer.startswith(b"HTTP/1.1 200 ") and b"connection: close" in answer.lower()
        assert silent == b""

    asyncio.run(main())


def test_allow_descriptors_raises_soft_limit() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))
        allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
