"""Settings and operation of gRPC: limits, the grace time, keys, the port, traces, and the extra that it needs."""

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as grpcclient
import uvicorn
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.loopback import connected, json_request
from benchmarks.service_process import wait_until
from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.drain import Drain
from sparserve.service.observability.tracing import RequestTracer
from sparserve.service.security.api_keys import Keyring
from sparserve.service.security.key_file import create
from sparserve.service.server.graceful_shutdown import DrainingServer
from sparserve.service.settings import Settings
from tests.support.service.grpc_service import Gate, Running, refusal, tensor
from tests.support.tiny_bundles import TASK

ROOT = Path(__file__).parents[3]
Code = grpc.StatusCode


@pytest.fixture
def start(store: Store) -> Iterator[Callable[..., Running]]:
    """Start a service with some settings."""
    started: list[Running] = []

    def make(**settings: Any) -> Running:
        started.append(Running(store.root, **settings))
        return started[-1]

    yield make
    for service in started:
        service.stop()


def test_grpc_full_queue_has_retry_after(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(max_waiting_inputs=1)
    gate, request = Gate(running, monkeypatch), service_pb2.ModelInferRequest(model_name=TASK)
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"good")
    with grpc.insecure_channel(running.address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        runs = infer.future(request, timeout=20)
        assert gate.reached.wait(10)
        waits = infer.future(request, timeout=20)
        gate.wait_for_waiting(1)
        with pytest.raises(grpc.RpcError) as caught:
            infer(request, timeout=20, metadata=[("x-request-id", "mine")])
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        trailing = dict(caught.value.trailing_metadata())
        assert int(trailing["retry-after"]) >= 1
        assert trailing["x-request-id"] == "mine"
        waits.cancel()  # what its client gives up leaves the queue
        gate.wait_for_waiting(0)
        gate.open()
        assert runs.result().model_name == TASK


def test_grpc_stop_waits_for_running_calls(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    running = start()
    gate = Gate(running, monkeypatch)
    with grpcclient.InferenceServerClient(running.address) as client:
        answered: queue.Queue[Any] = queue.Queue()
        client.async_infer(TASK, [tensor(["good"])], lambda result, error: answered.put(result or error))
        assert gate.reached.wait(10)
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        with contextlib.suppress(grpcclient.InferenceServerException):
            while client.is_server_live():  # until it takes no more calls
                pass
        gate.open()
        assert answered.get(timeout=10).as_numpy("label").shape == (1,)
        stopping.join()
    assert running.service.drain.dropped == 0


def test_grpc_refuses_calls_while_http_drains(store: Store) -> None:
    drain = Drain()
    app = create_app(Settings(store=store.root, threads=1, grpc_port=0), drain)
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=30)
    server = DrainingServer(config, drain, delay_seconds=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started and not app.state.service.reason_not_ready(), "a service")
    body = b'{"inputs": "good"}'
    with (
        connected(server.servers[0].sockets[0].getsockname()[1]) as half_sent,
        grpcclient.InferenceServerClient(f"127.0.0.1:{app.state.grpc_server.port}") as client,
    ):
        half_sent.sendall(json_request(f"/v1/models/{TASK}/classify", body[:5], announced=len(body)))
        assert client.is_server_live()
        server.should_exit = True  # as on a signal
        with pytest.raises(grpcclient.InferenceServerException):
            wait_until(lambda: not client.is_server_live(), "a refusal")
        half_sent.sendall(body[5:])
        assert half_sent.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    thread.join()


def test_grpc_counts_calls_dropped_after_the_grace_time(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(grace_seconds=1)
    gate = Gate(running, monkeypatch)
    with grpcclient.InferenceServerClient(running.address) as client:
        client.async_infer(TASK, [tensor(["good"])], lambda result, error: gate.open())
        assert gate.reached.wait(10)
        running.stop()
    assert running.service.drain.dropped == 1


def test_grpc_keys_are_metadata(start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create(tmp_path / "keys", "ci", frozenset({"classify"}), weight=3)
    other = create(tmp_path / "keys", "slow", frozenset({"classify"}), rate=1)
    running = start(keys_file=tmp_path / "keys")
    run, clients = running.service.batcher.run, []

    async def spy(*inputs: Any, **options: Any) -> Any:
        clients.append((options["client"], options["weight"]))
        return await run(*inputs, **options)

    monkeypatch.setattr(running.service.batcher, "run", spy)
    with grpcclient.InferenceServerClient(running.address) as client:
        assert client.is_server_ready()
        assert refusal(lambda: client.infer(TASK, [tensor(["a"])]))[0] == str(Code.UNAUTHENTICATED)
        assert refusal(lambda: client.is_model_ready(TASK))[0] == str(Code.UNAUTHENTICATED)
        wrong = {"authorization": "Bearer wrong"}
        assert refusal(lambda: client.infer(TASK, [tensor(["a"])], headers=wrong))[0] == str(Code.UNAUTHENTICATED)
        assert client.infer(TASK, [tensor(["a"])], headers={"authorization": f"Bearer {key}"})
        assert client.infer(TASK, [tensor(["a"])], headers={"x-api-key": other})
        again = refusal(lambda: client.infer(TASK, [tensor(["a"])], headers={"x-api-key": other}))
        assert again[0] == str(Code.RESOURCE_EXHAUSTED)
    keyring = Keyring(tmp_path / "keys")
    ids = [found.id for sent in (key, other) if (found := keyring.find(sent))]
    assert clients == [(f"key {ids[0]}", 3.0), (f"key {ids[1]}", 1.0)]


@pytest.mark.parametrize("port", [-1, 70_000])
def test_grpc_port_must_be_valid(port: int) -> None:
    with pytest.raises(ValidationError):
        Settings(grpc_port=port)


def test_grpc_taken_port_ends_the_process(start: Callable[..., Running], store: Store) -> None:
    taken = start().address.rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        "sparserve.service",
        "--store",
        str(store.root),
        "--port",
        "0",
        "--grpc-port",
        taken,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert taken in done.stderr


def test_grpc_without_the_extra_names_it() -> None:
    code = """
import sys
sys.modules["grpc"] = None
import sparserve.service.app
from sparserve.service.settings import Settings
try:
    Settings(grpc_port=9000)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'pip install "sparserve[grpc]"' in done.stdout


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_grpc_tracing_continues_the_clients_trace(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sparserve.requests")
    exporter = InMemorySpanExporter()
    running = Running(store.root, tracer=RequestTracer(exporter))
    with grpcclient.InferenceServerClient(running.address) as client:
        client.infer(TASK, [tensor(["good"])], headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
        refusal(lambda: client.infer("none", [tensor(["good"])]))
    running.stop()
    spans = exporter.get_finished_spans()
    continued = [span for span in spans if format(span.context.trace_id, "032x") == TRACE]
    route = "POST /v2/models/{task}/infer"
    assert sorted(span.name for span in continued) == [route, "inference", "queue", "tokenize"]
    statuses = {(span.attributes or {})["http.response.status_code"] for span in spans if span.name == route}
    assert statuses == {200, 404}
    assert vars(caplog.records[0])["fields"]["trace_id"] == TRACE
