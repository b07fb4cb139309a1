"""The service as a process: it starts without the job's libraries, and stops without dropping a request."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_bundles import TASK

from models.store import Store

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 30
JOB_ONLY = ("torch", "transformers", "onnx", "yaml", "typer", "plotly", "pandas", "sklearn", "scipy")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, method: str = "GET", body: object = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    with contextlib.closing(connection):
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@contextlib.contextmanager
def running(store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    command = [sys.executable, "-W", "error", "-m", "service", "--store", str(store), "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                if ask(port, "/readyz")[0] == 200:
                    break
        else:
            process.kill()
            raise AssertionError(f"not ready: {process.communicate()[1]}")
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_classifies_and_stops_with_status_0(store: Store) -> None:
    with running(store.root) as (process, port):
        status, answer = ask(port, f"/v1/models/{TASK}/classify", "POST", {"inputs": "good film"})
        assert status == 200 and answer["predictions"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


def test_a_request_that_sigterm_meets_half_sent_is_answered(store: Store) -> None:
    """The body's second half goes out only when the probe has shown that the signal was obeyed."""
    with running(store.root, "--shutdown-delay-seconds", "0.5") as (process, port):
        body = json.dumps({"inputs": ["good film"] * 100}).encode()
        head = f"POST /v1/models/{TASK}/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
            assert ask(port, "/readyz")[0] == 200  # the half request has been read by now: bytes are handled in turn
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + DEADLINE_SECONDS
            with contextlib.suppress(OSError):  # until the socket is closed
                while time.monotonic() < deadline:
                    status, problem = ask(port, "/readyz")
                    assert status == 200 or "shutting down" in str(problem["detail"])
            assert process.poll() is None
            client.sendall(body[10:])
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]) == 100
        assert process.wait(DEADLINE_SECONDS) == 0


def test_under_load_every_request_that_was_taken_is_answered(store: Store) -> None:
    body = json.dumps({"inputs": ["good film"] * 20})
    statuses: list[int] = []
    enough = threading.Event()

    def hammer(port: int) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
            with contextlib.closing(connection):
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
                connection.request("POST", f"/v1/models/{TASK}/classify", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            if len(statuses) > 50:
                enough.set()

    with running(store.root, "--log-level", "error") as (process, port), ThreadPoolExecutor(4) as clients:
        hammering = [clients.submit(hammer, port) for _ in range(4)]
        assert enough.wait(DEADLINE_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
        for one in hammering:
            one.result(timeout=DEADLINE_SECONDS)  # raises what the client met, such as a connection that was reset
    assert set(statuses) == {200}


def test_a_request_that_outlasts_the_grace_time_is_told_by_the_exit_status(store: Store) -> None:
    with (
        running(store.root, "--grace-seconds", "1") as (process, port),
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as client,
    ):
        client.sendall(b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert ask(port, "/readyz")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 1


def test_a_port_that_is_taken_is_an_error(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "service", "--store", str(store.root), "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert done.returncode == 3
    assert "address already in use" in done.stderr


@pytest.mark.parametrize("module", ["service.app", "service.__main__"])
def test_the_jobs_libraries_are_not_imported(module: str) -> None:
    code = f"import {module}, sys; print(*(set({JOB_ONLY!r}) & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
