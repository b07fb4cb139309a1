"""The service as a process: it starts without the job's libraries, and stops without dropping a request."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.loopback import DEADLINE_SECONDS, ask, connected, json_request
from benchmarks.service_process import ROOT, running
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK

JOB_ONLY = ("torch", "transformers", "onnx", "yaml", "typer", "plotly", "pandas", "sklearn", "scipy")


pytestmark = pytest.mark.slow


def test_it_classifies_and_stops_with_status_0(store: Store) -> None:
    with running(store.root) as service:
        status, answer = service.ask(f"/v1/models/{TASK}/classify", "POST", {"inputs": "good film"})
        assert status == 200 and answer["predictions"]
        assert service.stop() == 0


def test_process_answers_half_sent_request_on_sigterm(store: Store) -> None:
    """The body's second half goes out only when the probe has shown that the signal was obeyed."""
    with running(store.root, "--shutdown-delay-seconds", "0.5") as service:
        process, port = service.process, service.port
        body = json.dumps({"inputs": ["good film"] * 100}).encode()
        with connected(port) as client:
            client.sendall(json_request(f"/v1/models/{TASK}/classify", body[:10], announced=len(body)))
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


def test_process_exit_status_after_grace_time(store: Store) -> None:
    with (
        running(store.root, "--grace-seconds", "1") as service,
        connected(service.port) as client,
    ):
        client.sendall(json_request("/v1/models", b"", announced=10))
        assert service.ask("/readyz")[0] == 200
        assert service.stop() == 1


def test_process_stops_with_incomplete_body(store: Store) -> None:
    with (
        running(store.root, "--receive-timeout-seconds", "0.5") as service,
        connected(service.port) as client,
    ):
        client.sendall(json_request("/v1/models", b"", announced=10))
        assert service.ask("/readyz")[0] == 200
        assert service.stop() == 0
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_an_error(store: Store, workers: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ["--store", str(store.root), "--port", port, "--workers", workers]
        command = [sys.executable, "-m", "sparserve.service", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert done.returncode == 3
    assert "address already in use" in done.stderr


@pytest.mark.parametrize("module", ["sparserve.service.app", "sparserve.service.__main__"])
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


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signal_while_the_service_starts_is_obeyed(store: Store, workers: str) -> None:
    """The signal is sent when the first of the program's own modules is imported, before anything can serve."""
    code = (
        "import importlib, os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pydantic':\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from sparserve.service.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = ["--store", str(store.root), "--port", "0", "--workers", workers]
    command = [sys.executable, "-W", "error", "-c", code, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "Started server process" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_unknown_store_url_is_a_usage_error_in_one_line(tmp_path: Path, workers: str) -> None:
    options = ["--store", str(tmp_path), "--store-url", "nowhere://bucket", "--workers", workers, "--port", "0"]
    command = [sys.executable, "-m", "sparserve.service", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sparserve: store_url nowhere://bucket") and done.stderr.count("\n") == 1
