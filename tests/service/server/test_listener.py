"""Workers share a listening socket: each gets as many connections, and none is lost."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from sparserve.service.server.listener import ConnectionCounts, Listener, reserve_connection_counts

WORKERS = 2


class Worker:
    """A listener that greets with its number, and its open connections."""

    def __init__(self, folder: Path, number: int, listening: socket.socket) -> None:
        self.open: set[Greeting] = set()
        self.number = number
        self.listener = Listener(
            listening.dup(),
            lambda: Greeting(self),
            counts=ConnectionCounts(folder, number),
            open_connections=lambda: self.open,
        )


class Greeting(asyncio.Protocol):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._worker.open.add(self)
        transport.write(str(self._worker.number).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.open.discard(self)


@pytest.fixture
def listening(tmp_path: Path) -> socket.socket:
    reserve_connection_counts(tmp_path, WORKERS)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    return listening


async def greeted(listening: socket.socket) -> tuple[str, asyncio.StreamWriter]:
    """Connect; return the number of the worker that has accepted."""
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    return (await reader.readexactly(1)).decode(), writer


def test_connections_of_a_burst_spread_evenly(tmp_path: Path, listening: socket.socket) -> None:
    async def connect() -> list[int]:
        workers = [Worker(tmp_path, number, listening) for number in range(WORKERS)]
        clients = await asyncio.gather(*(greeted(listening) for _ in range(8)))
        held = [len(worker.open) for worker in workers]
        for _, writer in clients:
            writer.close()
        for worker in workers:
            worker.listener.close()
            await worker.listener.wait_closed()
        return held

    with listening:
        assert asyncio.run(connect()) == [4, 4]


def test_new_worker_gets_the_next_connections(tmp_path: Path, listening: socket.socket) -> None:
    async def connect() -> list[str]:
        first = Worker(tmp_path, 0, listening)
        clients = [await greeted(listening) for _ in range(3)]
        second = Worker(tmp_path, 1, listening)
        clients += [await greeted(listening) for _ in range(3)]
        for _, writer in clients:
            writer.close()
        for worker in (first, second):
            worker.listener.close()
        return [number for number, _ in clients]

    with listening:
        assert asyncio.run(connect()) == ["0", "0", "0", "1", "1", "1"]


def test_connection_is_accepted_by_the_worker_that_stays(tmp_path: Path, listening: socket.socket) -> None:
    async def connect() -> list[str]:
        first, second = Worker(tmp_path, 0, listening), Worker(tmp_path, 1, listening)
        clients = [await greeted(listening) for _ in range(2)]
        second.listener.close()
        clients += [await greeted(listening) for _ in range(2)]
        for _, writer in clients:
            writer.close()
        first.listener.close()
        return [number for number, _ in clients[2:]]

    with listening:
        assert asyncio.run(connect()) == ["0", "0"]


def test_hanging_worker_does_not_hold_up_connections(tmp_path: Path, listening: socket.socket) -> None:
    async def connect() -> list[str]:
        worker = Worker(tmp_path, 0, listening)
        ConnectionCounts(tmp_path, 1).publish(0)  # and it never accepts any
        clients = [await greeted(listening) for _ in range(3)]
        for _, writer in clients:
            writer.close()
        worker.listener.close()
        return [number for number, _ in clients]

    with listening:
        assert asyncio.run(connect()) == ["0", "0", "0"]


def test_listener_accepts_a_burst_in_one_round_of_the_loop(listening: socket.socket) -> None:
    class Counted(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            opened.append(transport)

    opened: list[Any] = []

    async def connect() -> set[int]:
        clients = [socket.create_connection(listening.getsockname()) for _ in range(20)]
        listener = Listener(listening.dup(), Counted, open_connections=lambda: opened)
        seen = set()
        while len(opened) < len(clients):
            seen.add(listener.publish())
            await asyncio.sleep(0)
        listener.close()
        for one in (*clients, *opened):
            one.close()
        await asyncio.sleep(0)
        return seen

    uvloop = pytest.importorskip("uvloop")
    with listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(connect()) == {0, 20}
