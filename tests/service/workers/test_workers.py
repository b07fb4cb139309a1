"""Two workers look like one service: counts, changes, readiness and shutdown are those of the whole."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import DEADLINE_SECONDS, connected, free_port, json_request
from benchmarks.reliability.kill_scenarios import supervisor_killed
from benchmarks.service_process import RunningService, running, wait_until
from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK

pytestmark = pytest.mark.slow

OPTIONS = ("--workers", "2", "--threads", "2", "--admin-without-key", "true", "--watch-seconds", "0.2")
WORKERS = ("0", "1")
MODEL = f"/v1/models/{TASK}"


@contextlib.contextmanager
def both_workers(port: int) -> Iterator[list[Any]]:
    """Hold connections to both workers, and yield a function that asks a path over each of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connected(port)).makefile("rwb") for _ in WORKERS]


def exchange(stream: Any, path: str, body: object = None) -> tuple[int, Any]:
    """Send a request over an open connection."""
    if body is None:
        stream.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    else:
        stream.write(json_request(path, json.dumps(body).encode()))
    stream.flush()
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    content = stream.read(length).decode()
    return status, json.loads(content) if content.startswith(("{", "[")) else content


def processes(service: RunningService) -> list[int]:
    """Return the process ids of the workers, as the log has them."""
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", service.logged())]


def shared_folder(worker: int) -> Path:
    """Return the folder that a worker got from its supervisor."""
    environment = Path(f"/proc/{worker}/environ").read_bytes().decode()
    (found,) = re.findall(r'"folder": "([^"]+)"', environment)
    return Path(found)


def served(stream: Any) -> str:
    status, answer = exchange(stream, f"{MODEL}/classify", {"inputs": "good"})
    assert status == 200
    return str(answer["model"]["version"])


def test_workers_add_up_and_survive_a_kill(store: Store, newer: Bundle) -> None:
    grpc_port = free_port()
    with running(store.root, *OPTIONS, "--grpc-port", str(grpc_port)) as service:
        labels = {"task": TASK, "variant": "dense"}
        with both_workers(service.port) as streams:
            for stream in streams:
                for _ in range(5):
                    served(stream)
            wait_until(lambda: service.metric("sparserve_inputs_total", **labels) == 10, "the count")
            assert service.metric("sparserve_workers") == 2
            # A change that one worker is asked for holds in both.
            promoted = exchange(streams[0], f"{MODEL}/dense/promote", {"version": newer.manifest.version})
            assert promoted[0] == 200 and promoted[1]["pinned"]
            assert [served(stream) for stream in streams] == [newer.manifest.version] * 2
            refused = exchange(streams[1], f"{MODEL}/dense/promote", {"version": "0" * 16})
            assert refused[0] == 422 and "has no version" in refused[1]["detail"]
            assert [served(stream) for stream in streams] == [newer.manifest.version] * 2
        # A request is counted after its answer.
        wait_until(lambda: service.metric("sparserve_inputs_total", **labels) == 14, "the count")
        victim = processes(service)[0]
        folder = shared_folder(victim)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: service.metric("sparserve_worker_restarts_total") == 1, "the restart")
        wait_until(lambda: service.metric("sparserve_workers") == 2, "the new worker")
        assert service.logs("was ended by SIGKILL; it is replaced")
        # The new worker has the change; nothing that the dead one counted is lost.
        assert service.metric("sparserve_inputs_total", **labels) == 14
        with both_workers(service.port) as streams:
            assert [served(stream) for stream in streams] == [newer.manifest.version] * 2
            overrides = [exchange(stream, "/v1/admin/overrides")[1] for stream in streams]
            assert overrides[0] == overrides[1] and overrides[0]["pinned"][0]["version"] == newer.manifest.version
        assert service.ask("/readyz")[0] == 200
        assert service.metric("sparserve_ready") == 1
        assert folder.is_dir()
        assert service.stop() == 0
    assert not folder.exists()


def test_experiment_has_one_set_of_figures(rivals: Store) -> None:
    compare = f"/v1/compare/{TASK}"
    texts = [["good", "bad"], ["bad", "film"]]  # one of them twice
    with running(rivals.root, *OPTIONS) as service, both_workers(service.port) as streams:
        policy = {"mode": "shadow", "candidate": "twin", "share": 1}
        assert service.ask(compare, "PUT", policy)[0] == 200
        for stream, inputs in zip(streams, texts, strict=True):
            assert exchange(stream, compare)[1]["policy"]["candidate"] == "twin"
            exchange(stream, f"{MODEL}/classify", {"inputs": inputs})

        def counted() -> list[tuple[int, int]]:
            shown = [exchange(stream, compare)[1] for stream in streams]
            return [(one["inputs"], one["repeated_inputs"]) for one in shown]

        wait_until(lambda: counted() == [(3, 1)] * 2, "both requests to be compared")
        assert service.metric("sparserve_experiment_inputs", task=TASK) == 3
        os.kill(processes(service)[0], signal.SIGKILL)
        wait_until(lambda: service.metric("sparserve_worker_restarts_total") == 1, "the restart")
        assert service.ask(compare)[1]["inputs"] == 3
        assert service.ask(compare, "DELETE")[1]["inputs"] == 3
        assert service.ask(compare)[0] == 404


def test_rate_of_a_client_is_that_of_the_service(store: Store) -> None:
    with running(store.root, *OPTIONS, "--anonymous-rate", "6") as service, both_workers(service.port) as streams:
        statuses = [exchange(stream, f"{MODEL}/classify", {"inputs": "good"})[0] for stream in streams * 4]
    assert statuses == [200] * 6 + [429] * 2


def test_one_worker_mirrors_for_all(store: Store, tmp_path: Path) -> None:
    options = (*OPTIONS[:-2], "--watch-seconds", "0", "--store-url", store.root.as_uri())
    with running(tmp_path / "mirror", *options) as service, both_workers(service.port) as streams:
        assert {served(stream) for stream in streams} == {store.current(TASK, "dense")}
        assert service.metric("sparserve_store_last_look_timestamp_seconds") > 0
        assert service.metric("sparserve_store_readable") == 1
        assert "cannot be read" not in service.logged()


def test_workers_answer_half_sent_requests_on_sigterm(store: Store) -> None:
    body = json.dumps({"inputs": ["good film"] * 20}).encode()
    with running(store.root, *OPTIONS) as service, both_workers(service.port) as streams:
        for stream in streams:
            stream.write(json_request(f"{MODEL}/classify", body[:10], announced=len(body)))
            stream.flush()
        assert service.ask("/readyz")[0] == 200
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(service.port), "the socket to be closed")
        for stream in streams:
            stream.write(body[10:])
            stream.flush()
            assert stream.read().startswith(b"HTTP/1.1 200 ")
        assert service.process.wait(DEADLINE_SECONDS) == 0


def test_workers_answer_all_and_stop_when_their_supervisor_is_killed(store: Store) -> None:
    with running(store.root, *OPTIONS) as service:
        folder = shared_folder(processes(service)[0])
        figures = supervisor_killed(service, 50)
        assert (figures["lost"], figures["statuses"].keys()) == (0, {"200"}), figures
        assert refuses(service.port)
        assert not folder.exists()


def refuses(port: int) -> bool:
    try:
        connected(port).close()
    except OSError:
        return True
    return False
