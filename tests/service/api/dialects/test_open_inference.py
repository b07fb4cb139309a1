"""The Open Inference Protocol, by Triton's own client against the running service and by hand."""

import contextlib
import gzip
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as httpclient
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserve.models.bundle.store import Store
from sparserve.service.api.dialects.open_inference_codec import read_request
from sparserve.service.errors import ServiceError
from tests.support.service.fixtures import NewApp
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK

INFER = f"/v2/models/{TASK}/infer"
# Two texts announced, five hundred thousand empty ones sent.
MORE_THAN_SAID = (
    b'{"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 2000000}}]}'
    + bytes(2_000_000)
)
TEXTS = ["a good movie", "bad", "ünïcödé 🎬"]


@pytest.fixture(scope="module")
def triton(module_store: Store, new_app: NewApp) -> Iterator[Any]:
    """Triton's client, connected to the service."""
    with listening(new_app(store=module_store.root)) as address:
        client = httpclient.InferenceServerClient(address)
        yield client
        client.close()


def tensor(texts: list[str], *, binary: bool, columns: bool = False) -> Any:
    shape = [len(texts), 1] if columns else [len(texts)]
    found = httpclient.InferInput("text", shape, "BYTES")
    found.set_data_from_numpy(np.array(texts, dtype=object).reshape(shape), binary_data=binary)
    return found


def test_open_inference_triton_sees_server_and_models(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification", "model_repository"]
    assert triton.is_model_ready(TASK)
    assert triton.is_model_ready(TASK, "sparse90")
    assert not triton.is_model_ready("no-such-task")
    assert triton.get_model_metadata(TASK)["versions"] == ["dense", "sparse90"]
    index = triton.get_model_repository_index()
    assert [(one["name"], one["version"], one["state"]) for one in index] == [
        (TASK, "dense", "READY"),
        (TASK, "sparse90", "READY"),
    ]


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_open_inference_triton_infers(
    triton: Any, binary_in: bool, binary_out: bool, columns: bool, compression: str | None
) -> None:
    outputs = [httpclient.InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "score", "scores")]
    answer = triton.infer(
        TASK,
        [tensor(TEXTS, binary=binary_in, columns=columns)],
        model_version="sparse90",
        outputs=outputs,
        request_id="seven",
        request_compression_algorithm=compression,
    )
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "sparse90"
    scores = answer.as_numpy("scores")
    assert scores.shape == (3, 2)
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    labels = [one.decode() if isinstance(one, bytes) else one for one in answer.as_numpy("label")]
    assert labels == [("negative", "positive")[best] for best in scores.argmax(axis=1)]
    assert answer.as_numpy("score") == pytest.approx(scores.max(axis=1))


def test_open_inference_triton_gets_classes(triton: Any) -> None:
    output = httpclient.InferRequestedOutput("scores", class_count=1)
    answer = triton.infer(TASK, [tensor(TEXTS, binary=True)], outputs=[output])
    found = answer.as_numpy("scores")
    assert found.shape == (3, 1)
    score, index, label = found[0, 0].decode().split(":")
    assert float(score) >= 0.5
    assert ("negative", "positive")[int(index)] == label


def test_open_inference_triton_gets_errors(triton: Any) -> None:
    with pytest.raises(Exception, match="no-such-task"):
        triton.infer("no-such-task", [tensor(["a"], binary=True)])
    wrong = httpclient.InferInput("text", [1], "FP32")
    wrong.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    with pytest.raises(Exception, match="texts are BYTES"):
        triton.infer(TASK, [wrong])


def test_open_inference_timeout_is_a_deadline(module_client: TestClient) -> None:
    body = {"parameters": {"timeout": 1}, "inputs": [one("good")]}
    answer = module_client.post(INFER, json=body)
    assert answer.status_code == 504
    assert answer.json()["error"]


def one(*texts: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": []}, 422, "inputs"),
        ({"inputs": [one("a", shape=[2])]}, 422, "has 1 texts, but the shape [2]"),
        ({"inputs": [one("a", shape=[1, 2])]}, 422, "give [n] or [n, 1]"),
        ({"inputs": [one("a", shape=[0])]}, 422, "give [n] or [n, 1]"),
        ({"inputs": [one("a", data=None)]}, 422, "has no data"),
        ({"inputs": [one("a", data=[5])]}, 422, "element 0 is not a text"),
        ({"inputs": [one("a", name="ids")]}, 422, "send the input text"),
        ({"inputs": [one("a"), one("a")]}, 422, "is there twice"),
        ({"inputs": [one("a"), one("b", "c", name="text_pair")]}, 422, "text has 1 elements and text_pair 2"),
        ({"inputs": [one("a", parameters={"binary_data_size": 4})]}, 422, "both data and binary_data_size"),
        ({"inputs": [one("a", data=None, parameters={"binary_data_size": 9})]}, 400, "has 9 bytes, but 0 are left"),
        ({"inputs": [one("a")], "outputs": [{"name": "logits"}]}, 422, "no output 'logits'"),
        (
            {"inputs": [one("a")], "outputs": [{"name": "score"}, {"name": "label"}, {"name": "score"}]},
            422,
            "score is there",
        ),
        ({"inputs": [one("a")], "outputs": [{"name": "score"}] * 100_000}, 422, "outputs: List should have at most 8"),
        ({"inputs": [{}] * 100_000}, 422, "inputs: List should have at most 8 items"),
        ({"inputs": [one("a", shape=["1"] * 100_000)]}, 422, "shape: List should have at most 8 items"),
        ({"inputs": [one("a", name="a" * 100_000)]}, 422, "inputs.0.name: String should have at most 100"),
        ({"inputs": [one("a")], "more": 1}, 422, "body: unknown fields, such as 'more'; the fields are id, "),
        ({"inputs": [one("a")], **dict.fromkeys(map(str, range(1000)), 1)}, 422, "such as '0', '1', '2'; the fields"),
        ({"inputs": [one(5, *["a"] * 300)]}, 413, "301 inputs"),
        ({"inputs": [one("a", shape=[300])]}, 413, "300 inputs"),
        ({"inputs": [one(*["a"] * 300)]}, 413, "300 inputs"),
    ],
)
def test_open_inference_refuses_wrong_requests(
    module_client: TestClient, body: dict[str, Any], status: int, message: str
) -> None:
    answer = module_client.post(INFER, json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"{", {}, 400, "not JSON"),
        (MORE_THAN_SAID, {"Inference-Header-Content-Length": str(MORE_THAN_SAID.index(b"\0"))}, 422, "more than the 2"),
        (b"{}", {"Inference-Header-Content-Length": "9"}, 400, "at most the body's 2"),
        (b"{}", {"Inference-Header-Content-Length": "x"}, 400, "at most the body's 2"),
        (b"{}", {"Inference-Header-Content-Length": "9" * 5000}, 400, "at most the body's 2"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"Content-Encoding": "gzip"}, 400, "not complete gzip"),
        (b"{}", {"Content-Encoding": "br"}, 415, "send gzip, deflate"),
        (gzip.compress(b" " * 5_000_000, mtime=0), {"Content-Encoding": "gzip"}, 413, "once unpacked"),
    ],
)
def test_open_inference_refuses_wrong_bytes(
    module_client: TestClient, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    answer = module_client.post(INFER, content=content, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_open_inference_pairs_are_two_inputs(module_client: TestClient) -> None:
    body = {"id": "1", "inputs": [one("a", "b"), one("c", "d", name="text_pair")], "outputs": [{"name": "label"}]}
    answer = module_client.post(INFER, json=body).json()
    assert [(out["name"], out["shape"]) for out in answer["outputs"]] == [("label", [2])]


@pytest.mark.parametrize("length", [False, True])
def test_open_inference_accepts_a_byte_order_mark(module_client: TestClient, length: bool) -> None:
    content = b'\xef\xbb\xbf{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}'
    headers = {"Inference-Header-Content-Length": str(len(content))} if length else {}
    assert module_client.post(INFER, content=content, headers=headers).status_code == 200


def test_open_inference_accepts_a_trailing_slash(module_client: TestClient) -> None:
    assert module_client.get("/v2").json() == module_client.get("/v2/").json()


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_open_inference_codec_round_trip(texts: list[str]) -> None:
    data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    head = (
        f'{{"inputs": [{{"name": "text", "shape": [{len(texts)}], "datatype": "BYTES", '
        f'"parameters": {{"binary_data_size": {len(data)}}}}}]}}'
    ).encode()
    _, found = read_request(head + data, str(len(head)), 256)
    assert found == {"text": texts}


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 80))
def test_open_inference_codec_raises_only_service_errors(data: bytes, size: int) -> None:
    head = (
        f'{{"inputs": [{{"name": "text", "shape": [1], "datatype": "BYTES", '
        f'"parameters": {{"binary_data_size": {size}}}}}]}}'
    ).encode()
    with contextlib.suppress(ServiceError):
        read_request(head + data, str(len(head)), 256)
