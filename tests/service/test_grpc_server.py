"""The Open Inference Protocol over gRPC, by Triton's own client against the running service."""

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import uvicorn
from google.protobuf.descriptor import Descriptor
from pydantic import ValidationError
from tiny_bundles import TASK, publish
from tritonclient.grpc import service_pb2, service_pb2_grpc

from models.store import Store
from service.app import create_app
from service.context import Service
from service.grpc_messages import messages
from service.keys_command import create
from service.settings import Settings

ROOT = Path(__file__).parents[2]
TEXTS = ["a good movie", "bad", "ünïcödé 🎬"]
Code = grpc.StatusCode


class Running:
    """A service with gRPC on a port of its own."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.app = create_app(Settings(**{"store": root, "threads": 1, "grpc_port": 0, **settings}))
        self.service: Service = self.app.state.service
        self._server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started or self.service.reason_not_ready():
            self._thread.join(0.01)
        self.address = f"127.0.0.1:{self.app.state.grpc_server.port}"

    def stop(self) -> None:
        """End it as a signal does."""
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grpc") / "store"
    publish(Store(root), variant="dense")
    publish(Store(root), variant="sparse90")
    return root


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[Running]:
    """One service for the tests that leave no trace in it."""
    service = Running(root)
    yield service
    service.stop()


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., Running]]:
    """Start a service with some settings."""
    started: list[Running] = []

    def make(**settings: Any) -> Running:
        started.append(Running(root, **settings))
        return started[-1]

    yield make
    for service in started:
        service.stop()


@pytest.fixture
def triton(running: Running) -> Iterator[Any]:
    """Triton's client, connected to the service."""
    with grpcclient.InferenceServerClient(running.address) as client:
        yield client


def tensor(texts: list[str], columns: bool = False) -> Any:
    shape = [len(texts), 1] if columns else [len(texts)]
    found = grpcclient.InferInput("text", shape, "BYTES")
    found.set_data_from_numpy(np.array(texts, dtype=object).reshape(shape))
    return found


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Status and message of a call that is refused."""
    with pytest.raises(grpcclient.InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


def test_triton_sees_a_server_and_its_models(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata().name == "sparserve"
    assert triton.is_model_ready(TASK)
    assert triton.is_model_ready(TASK, "sparse90")
    assert not triton.is_model_ready("no-such-task")
    metadata = triton.get_model_metadata(TASK)
    assert list(metadata.versions) == ["dense", "sparse90"]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs][2] == ("scores", "FP32", [-1, 2])


@pytest.mark.parametrize("columns", [False, True])
def test_triton_infers(triton: Any, columns: bool) -> None:
    answer = triton.infer(TASK, [tensor(TEXTS, columns)], model_version="sparse90", request_id="seven")
    assert (answer.get_response().id, answer.get_response().model_version) == ("seven", "sparse90")
    scores = answer.as_numpy("scores")
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    labels = [one.decode() for one in answer.as_numpy("label")]
    assert labels == [("negative", "positive")[best] for best in scores.argmax(axis=1)]
    assert answer.as_numpy("score") == pytest.approx(scores.max(axis=1))


def test_triton_gets_the_outputs_and_classes_that_it_asks_for(triton: Any) -> None:
    outputs = [grpcclient.InferRequestedOutput("scores", class_count=1), grpcclient.InferRequestedOutput("label")]
    answer = triton.infer(TASK, [tensor(TEXTS)], outputs=outputs)
    assert [one.name for one in answer.get_response().outputs] == ["scores", "label"]
    found = answer.as_numpy("scores")
    assert found.shape == (3, 1)
    assert found[0, 0].decode().split(":")[2] == answer.as_numpy("label")[0].decode()


def test_texts_may_come_as_contents(running: Running) -> None:
    request = service_pb2.ModelInferRequest(model_name=TASK)
    one = request.inputs.add(name="text", datatype="BYTES", shape=[2])
    one.contents.bytes_contents.extend(text.encode() for text in TEXTS[:2])
    with grpc.insecure_channel(running.address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    with grpcclient.InferenceServerClient(running.address) as client:
        as_raw = client.infer(TASK, [tensor(TEXTS[:2])]).get_response()
    assert list(answer.raw_output_contents) == list(as_raw.raw_output_contents)


def test_triton_hears_what_is_wrong(triton: Any) -> None:
    assert refusal(lambda: triton.infer("no-such-task", [tensor(["a"])]))[0] == str(Code.NOT_FOUND)
    assert refusal(lambda: triton.get_model_metadata(TASK, "none"))[0] == str(Code.NOT_FOUND)
    assert refusal(lambda: triton.get_model_metadata(f"{TASK}/ready"))[0] == str(Code.NOT_FOUND)
    wrong = grpcclient.InferInput("text", [1], "FP32")
    wrong.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    status, message = refusal(lambda: triton.infer(TASK, [wrong]))
    assert status == str(Code.INVALID_ARGUMENT)
    assert "texts are BYTES" in message
    status, message = refusal(lambda: triton.infer(TASK, [tensor(["a"] * 300)]))
    assert status == str(Code.INVALID_ARGUMENT)
    assert "300 inputs" in message
    assert refusal(triton.get_model_repository_index)[0] == str(Code.UNIMPLEMENTED)


def test_contents_and_raw_contents_that_do_not_fit_are_refused(running: Running) -> None:
    request = service_pb2.ModelInferRequest(model_name=TASK, raw_input_contents=[b"", b""])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "1 inputs have 2 raw contents" in caught.value.details()


def test_a_deadline_that_cannot_be_kept_ends_the_call(triton: Any) -> None:
    assert refusal(lambda: triton.infer(TASK, [tensor(["good"])], timeout=1))[0] == str(Code.DEADLINE_EXCEEDED)
    late = refusal(lambda: triton.infer(TASK, [tensor(["good"])], client_timeout=1e-5))
    assert late[0] == str(Code.DEADLINE_EXCEEDED)
    assert triton.infer(TASK, [tensor(["good"])], client_timeout=30).as_numpy("label").shape == (1,)


class Gate:
    """Holds up every batch of the task's default variant until it is opened."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier = running.service.catalog.engine(TASK).loaded.classifier
        self.reached, self._open, self._logits = threading.Event(), threading.Event(), classifier.logits
        self._registry = running.service.metrics.registry
        monkeypatch.setattr(classifier, "logits", self._held_up)

    def _held_up(self, tokens: Any) -> Any:
        self.reached.set()
        self._open.wait(20)
        return self._logits(tokens)

    def open(self) -> None:
        self._open.set()

    def wait_for_waiting(self, inputs: int) -> None:
        give_up = time.monotonic() + 10
        while self._registry.get_sample_value("sparserve_inputs_waiting") != inputs:
            assert time.monotonic() < give_up


def test_a_full_queue_and_its_waiting_time_are_told(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_stopping_waits_for_the_calls_that_run(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_the_grace_time_is_too_short_for_is_counted(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(grace_seconds=1)
    gate = Gate(running, monkeypatch)
    with grpcclient.InferenceServerClient(running.address) as client:
        client.async_infer(TASK, [tensor(["good"])], lambda result, error: gate.open())
        assert gate.reached.wait(10)
        running.stop()
    assert running.service.drain.dropped == 1


def test_keys_come_as_metadata(start: Callable[..., Running], tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "ci", frozenset({"classify"}))
    other = create(tmp_path / "keys", "slow", frozenset({"classify"}), rate=1)
    running = start(keys_file=tmp_path / "keys")
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


def test_calls_are_counted_as_rest_requests_are(running: Running, triton: Any) -> None:
    def count() -> float:
        labels = {"method": "POST", "route": "/v2/models/{task}/infer", "status": "200"}
        return running.service.metrics.registry.get_sample_value("sparserve_http_requests_total", labels) or 0

    before = count()
    triton.infer(TASK, [tensor(["good"])])
    assert count() == before + 1


def fields(message: Descriptor) -> dict[str, Any]:
    found = {one.name: (one.number, one.type, one.is_repeated) for one in message.fields}
    inner = {one.name: fields(one.message_type) for one in message.fields if one.message_type}
    return {"fields": found, "messages": inner}


@pytest.mark.parametrize("name", sorted(messages()))
def test_the_messages_are_those_that_triton_was_generated_from(name: str) -> None:
    theirs = fields(getattr(service_pb2, name).DESCRIPTOR)
    assert fields(messages()[name].DESCRIPTOR) == theirs


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ValidationError):
        Settings(grpc_port=port)


def test_a_taken_port_ends_the_process_and_says_so(running: Running, root: Path) -> None:
    taken = running.address.rpartition(":")[2]
    command = [sys.executable, "-m", "service", "--store", str(root), "--port", "0", "--grpc-port", taken]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert taken in done.stderr


def test_without_the_extra_the_service_says_what_to_install() -> None:
    code = """
import sys
sys.modules["grpc"] = None
import service.app
from service.settings import Settings
try:
    Settings(grpc_port=9000)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'pip install "sparserve[grpc]"' in done.stdout
