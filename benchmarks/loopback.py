"""Connections and requests to a server on this machine."""

import contextlib
import http.client
import json
import socket
from typing import Any

HOST = "127.0.0.1"
DEADLINE_SECONDS = 60.0


def free_port() -> int:
    """Return a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def connected(port: int) -> socket.socket:
    """Open a connection. Every operation on it that exceeds `DEADLINE_SECONDS` raises TimeoutError.

    Raises:
        OSError: the server does not accept it.
    """
    return socket.create_connection((HOST, port), DEADLINE_SECONDS)


def http_connection(port: int) -> contextlib.closing[http.client.HTTPConnection]:
    """Return an HTTP connection, opened by its first request and closed by the context, with the same deadline."""
    return contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=DEADLINE_SECONDS))


def ask(port: int, path: str, method: str = "GET", body: object = None) -> tuple[int, Any]:
    """Send a request on a new connection and return the status and the content, decoded if it is JSON.

    Raises:
        OSError: there is no answer.
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
    """Return the bytes of a POST request. `announced` replaces the true body length in Content-Length."""
    length = len(body) if announced is None else announced
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"{head}\r\n".encode() + body
