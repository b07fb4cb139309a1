"""Hostile clients: they send half a request, close half a connection, or disconnect early."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.loopback import DEADLINE_SECONDS, connected, json_request

HALF_HEAD = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Half"


@dataclass
class Ended:
    """Ends of the connections of slow clients: with 408 or just closed, and the seconds until the last one."""

    answered_408: int = 0
    closed: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def half_sent(port: int, path: str, count: int) -> Iterator[list[socket.socket]]:
    """Open `count` connections; one half sends an incomplete head, the other half an incomplete body."""
    half_body = json_request(path, b"{", announced=1000)
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(count):
            with contextlib.suppress(ConnectionError):  # the service has no descriptors left
                client = stack.enter_context(connected(port))
                client.sendall(half_body if number % 2 else HALF_HEAD)
                clients.append(client)
        yield clients


def wait_until_ended(clients: list[socket.socket]) -> Ended:
    """Wait until the service has closed all of these connections.

    Raises:
        TimeoutError: some are still open; the message has their number.
    """
    ended, began = Ended(), time.monotonic()
    poll = select.poll()  # select() supports at most 1,024 descriptors
    waiting = {client.fileno(): client for client in clients}
    received: dict[int, bytes] = dict.fromkeys(waiting, b"")
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while waiting:
        if time.monotonic() - began > DEADLINE_SECONDS:
            raise TimeoutError(f"{len(waiting)} connections are open after {DEADLINE_SECONDS:g} s")
        for descriptor, _ in poll.poll(1000):
            try:
                content = waiting[descriptor].recv(65_536)
            except ConnectionResetError:
                content = b""
            received[descriptor] += content
            if not content:
                poll.unregister(descriptor)
                del waiting[descriptor]
    ended.answered_408 = sum(content.startswith(b"HTTP/1.1 408 ") for content in received.values())
    ended.closed = len(clients) - ended.answered_408
    ended.seconds = time.monotonic() - began
    return ended


def half_closed(port: int, path: str, count: int) -> tuple[int, int]:
    """Send requests, close the sending side after each, and return the numbers answered and not answered."""
    answered = 0
    for _ in range(count):
        with connected(port) as client:
            client.sendall(json_request(path, b'{"inputs": ["good film"]}'))
            client.shutdown(socket.SHUT_WR)
            content = b""
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(65_536):
                    content += part
            answered += content.startswith(b"HTTP/1.1 200 ")
    return answered, count - answered


def gone(port: int, path: str, inputs: list[str], count: int) -> None:
    """Send `count` requests and disconnect without reading the answers."""
    content = json_request(path, json.dumps({"inputs": inputs}).encode())
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(port)).sendall(content)
