"""The Open Inference Protocol over gRPC, by Triton's own client against the running service."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sparserve.models.bundle.store import Store
from tests.support.service.grpc_service import Gate, Running, refusal, tensor
from tests.support.tiny_bundles import TASK, publish

TEXTS = ["a good movie", "bad", "ünïcödé 🎬"]
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def running(module_store: Store) -> Iterator[Running]:
    """One service for the tests that leave no trace in it."""
    service = Running(module_store.root)
    yield service
    service.stop()


@pytest.fixture
def triton(running: Running) -> Iterator[Any]:
    """Triton's client, connected to the service."""
    with grpcclient.InferenceServerClient(running.address) as client:
        yield client


def test_grpc_triton_sees_server_and_models(triton: Any) -> None:
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
def test_grpc_triton_infers(triton: Any, columns: bool) -> None:
    answer = triton.infer(TASK, [tensor(TEXTS, columns)], model_version="sparse90", request_id="seven")
    assert (answer.get_response().id, answer.get_response().model_version) == ("seven", "sparse90")
    scores = answer.as_numpy("scores")
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    labels = [one.decode() for one in answer.as_numpy("label")]
    assert labels == [("negative", "positive")[best] for best in scores.argmax(axis=1)]
    assert answer.as_numpy("score") == pytest.approx(scores.max(axis=1))


def test_grpc_triton_gets_requested_outputs_and_classes(triton: Any) -> None:
    outputs = [grpcclient.InferRequestedOutput("scores", class_count=1), grpcclient.InferRequestedOutput("label")]
    answer = triton.infer(TASK, [tensor(TEXTS)], outputs=outputs)
    assert [one.name for one in answer.get_response().outputs] == ["scores", "label"]
    found = answer.as_numpy("scores")
    assert found.shape == (3, 1)
    assert found[0, 0].decode().split(":")[2] == answer.as_numpy("label")[0].decode()


def test_grpc_accepts_texts_as_contents(running: Running) -> None:
    request = service_pb2.ModelInferRequest(model_name=TASK)
    one = request.inputs.add(name="text", datatype="BYTES", shape=[2])
    one.contents.bytes_contents.extend(text.encode() for text in TEXTS[:2])
    with grpc.insecure_channel(running.address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    with grpcclient.InferenceServerClient(running.address) as client:
        as_raw = client.infer(TASK, [tensor(TEXTS[:2])]).get_response()
    assert list(answer.raw_output_contents) == list(as_raw.raw_output_contents)


def test_grpc_triton_gets_errors(triton: Any) -> None:
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


def test_grpc_refuses_mismatched_contents(running: Running) -> None:
    request = service_pb2.ModelInferRequest(model_name=TASK, raw_input_contents=[b"", b""])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "1 inputs have 2 raw contents" in caught.value.details()


def inputs(count: int, texts: int = 1, dimensions: int = 1, parameters: int = 0) -> Any:
    request = service_pb2.ModelInferRequest(model_name=TASK)
    for number in range(count):
        one = request.inputs.add(name=f"text{number}", datatype="BYTES", shape=[1] * dimensions)
        one.contents.bytes_contents.extend([b"good"] * texts)
        for name in range(parameters):
            one.parameters[str(name)].int64_param = name
    return request


def outputs(count: int) -> Any:
    request = inputs(1)
    for number in range(count):
        request.outputs.add(name=f"label{number}")
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (inputs(9), "9 inputs and 0 outputs, more than the 8 allowed"),
        (outputs(9), "1 inputs and 9 outputs, more than the 8 allowed"),
        (inputs(1, texts=300), "the request has 300 inputs, the limit is 256"),
        (inputs(1, dimensions=9), "input text0 has 9 dimensions"),
        (inputs(1, parameters=65), "more than 64 parameters"),
    ],
    ids=["inputs", "outputs", "texts", "dimensions", "parameters"],
)
def test_grpc_refuses_too_many_parts(running: Running, request_: Any, message: str) -> None:
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_, timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert message in caught.value.details()


def test_grpc_deadline_ends_the_call(running: Running, triton: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(lambda: triton.infer(TASK, [tensor(["good"])], timeout=1))[0] == str(Code.DEADLINE_EXCEEDED)
    gate = Gate(running, monkeypatch)
    try:
        late = refusal(lambda: triton.infer(TASK, [tensor(["good"])], client_timeout=0.05))
    finally:
        gate.open()
    assert late[0] == str(Code.DEADLINE_EXCEEDED)
    assert triton.infer(TASK, [tensor(["good"])], client_timeout=30).as_numpy("label").shape == (1,)


def test_grpc_calls_are_counted_like_rest_requests(running: Running, triton: Any) -> None:
    def count() -> float:
        labels = {"method": "POST", "route": "/v2/models/{task}/infer", "status": "200"}
        return running.service.metrics.registry.get_sample_value("sparserve_http_requests_total", labels) or 0

    before = count()
    triton.infer(TASK, [tensor(["good"])])
    assert count() == before + 1


@pytest.mark.parametrize("setting", ["warn", "refuse"])
def test_grpc_other_kind_of_input_is_warned_of_or_refused(store: Store, setting: str) -> None:
    publish(store, "pairs", inputs="pair")
    request = service_pb2.ModelInferRequest(model_name="pairs")
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"good")
    message = "item 0 is a single text, but pairs/dense was trained on pairs of texts: send text and text_pair"
    running = Running(store.root, input_mismatch=setting)
    try:
        with grpc.insecure_channel(running.address) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            if setting == "warn":
                _, state = call.with_call(request, timeout=10)
                assert ("x-sparserve-warning", message) in [tuple(entry) for entry in state.trailing_metadata()]
                return
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=10)
            assert (caught.value.code(), caught.value.details()) == (Code.INVALID_ARGUMENT, message)
    finally:
        running.stop()
