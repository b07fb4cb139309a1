"""Connections to a server on this machine, and what goes over them."""

import contextlib
import http.client
import json
import socket
from typing import Any

HOST = "127.0.0.1"
DEADLINE_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def connected(port: int) -> socket.socket:
    """A new connection; what takes longer than `DEADLINE_SECONDS` raises TimeoutError.

    Raises:
        OSError: nobody takes it.
    """
    return socket.create_connection((HOST, port), DEADLINE_SECONDS)


def http_connection(port: int) -> contextlib.closing[http.client.HTTPConnection]:
    """A connection that its first request makes and the end of the block closes, with the deadline of `connected`."""
    return contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=DEADLINE_SECONDS))


def ask(port: int, path: str, method: str = "GET", body: object = None) -> tuple[int, Any]:
    """Status and content of an answer, decoded where it is JSON, on a connection of its own.

    Raises:
        OSError: there is none.
    """
    with http_connection(port) as connection:
        content = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"no answer: {type(error).__name__}") from error
        return answer.status, json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text


def json_request(path: str, body: bytes, *, announced: int | None = None) -> bytes:
    """A POST request as it goes over a connection; `announced` is the body's length that it tells if not its own."""
    length = len(body) if announced is None else announced
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"{head}\r\n".encode() + body
