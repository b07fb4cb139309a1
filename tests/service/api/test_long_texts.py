"""Long texts over every protocol: cut, refused, or answered in windows, with the answers of `Classifier`."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.classifier import Classifier
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.windows import LongTexts
from sparserve.models.errors import InputError
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import LABELS, TASK, publish

URL = f"/v1/models/{TASK}/classify"
LONG = "good film the bad a dull was fun " * 7  # 56 tokens, 6 windows of 14 that share 4
WINDOWS = {"overlong": "windows", "stride": 4}


@pytest.fixture(scope="module")
def windows_store(module_store: Store) -> Store:
    """Return the store with a task whose bundle asks for windows."""
    publish(module_store, "long", long_texts=LongTexts(overlong="windows", stride=4))
    return module_store


def scores_of(answer: dict[str, Any]) -> list[dict[str, float]]:
    return [{one["label"]: one["score"] for one in row} for row in answer["predictions"]]


@pytest.mark.parametrize("aggregate", ["mean", "max", "first"])
def test_windows_have_the_answer_of_the_classifier(
    module_client: TestClient, module_store: Store, aggregate: Any
) -> None:
    texts = ["good", LONG, "bad film", LONG[:-10]]
    body = {"inputs": texts, "top_k": None, "overlong": "windows", "stride": 4, "aggregate": aggregate}
    answer = module_client.post(URL, json=body).json()
    classify = Classifier.load(module_store, TASK, threads=1)
    rows = classify(texts, top_k=2, overlong="windows", stride=4, aggregate=aggregate, batch_size=3)
    assert scores_of(answer) == [pytest.approx({one.label: one.score for one in row}) for row in rows]
    usage = {"tokens": 96, "truncated": False, "windows": 6}
    assert answer["usage"][1] == (usage if aggregate != "first" else {"tokens": 16, "truncated": True, "windows": 1})


def test_windows_are_the_default_of_a_bundle_in_every_protocol(windows_store: Store, serve: Serve) -> None:
    client = serve(store=windows_store.root)
    native = client.post("/v1/models/long/classify", json={"inputs": LONG, "top_k": None}).json()
    assert native["usage"] == [{"tokens": 96, "truncated": False, "windows": 6}]
    (expected,) = scores_of(native)
    cut = client.post("/v1/models/long/classify", json={"inputs": LONG, "top_k": None, "overlong": "truncate"}).json()
    assert scores_of(cut) != [pytest.approx(expected)]
    (hugging_face,) = client.post("/hf/long", json={"inputs": LONG}).json()
    assert {one["label"]: one["score"] for one in hugging_face} == pytest.approx(expected)
    embeddings = client.post("/tei/long/predict", json={"inputs": LONG}).json()
    assert {one["label"]: one["score"] for one in embeddings} == pytest.approx(expected)
    vllm = client.post("/classify", json={"model": "long", "input": LONG}).json()
    assert dict(zip(LABELS, vllm["data"][0]["probs"], strict=True)) == pytest.approx(expected)
    assert vllm["usage"]["prompt_tokens"] == 96
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [LONG]}
    outputs = [{"name": "scores"}]
    inference = client.post("/v2/models/long/infer", json={"inputs": [tensor], "outputs": outputs}).json()
    assert dict(zip(LABELS, inference["outputs"][0]["data"], strict=True)) == pytest.approx(expected)
    listed = {one["task"]: one["long_texts"] for one in client.get("/v1/models").json()["models"]}
    assert listed["long"] == {"overlong": "windows", "stride": 4, "aggregate": "mean"}
    assert listed[TASK]["overlong"] == "truncate"


def test_windows_on_request_in_every_protocol(module_client: TestClient) -> None:
    (expected,) = scores_of(module_client.post(URL, json={"inputs": LONG, "top_k": None, **WINDOWS}).json())
    (hugging_face,) = module_client.post(f"/hf/{TASK}", json={"inputs": LONG, "parameters": WINDOWS}).json()
    assert {one["label"]: one["score"] for one in hugging_face} == pytest.approx(expected)
    embeddings = module_client.post(f"/tei/{TASK}/predict", json={"inputs": LONG, **WINDOWS}).json()
    assert {one["label"]: one["score"] for one in embeddings} == pytest.approx(expected)
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [LONG]}
    body = {"inputs": [tensor], "outputs": [{"name": "scores"}], "parameters": WINDOWS}
    inference = module_client.post(f"/v2/models/{TASK}/infer", json=body).json()
    assert dict(zip(LABELS, inference["outputs"][0]["data"], strict=True)) == pytest.approx(expected)
    compared = module_client.post(f"/v1/models/{TASK}/compare", json={"inputs": LONG, **WINDOWS}).json()
    (item,) = compared["items"]
    assert (item["tokens"], item["windows"], item["truncated"]) == (96, 6, False)
    assert item["predictions"]["dense"]["scores"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": LONG, "overlong": "cut"}, 422, "body.overlong: Input should be 'truncate', 'error' or 'windows'"),
        ({"inputs": LONG, "overlong": "error"}, 422, "item 0 has more than the 16 tokens"),
        (
            {"inputs": {"text": LONG, "text_pair": LONG}, **WINDOWS},
            422,
            "windows cannot split it, because it is a pair",
        ),
        ({"inputs": "good " * 400, **WINDOWS}, 413, "more than 32 windows of 16 tokens (max_windows)"),
        ({"inputs": [LONG] * 60, **WINDOWS}, 413, "more than 256 inputs and windows (max_items)"),
        ({"inputs": LONG, **WINDOWS, "stride": 9}, 422, "stride 9 is more than half of the 16 tokens"),
        ({"inputs": LONG, "stride": 3}, 422, 'stride and aggregate need windows: set "overlong" to "windows"'),
        ({"inputs": LONG, **WINDOWS, "truncate": False}, 422, 'overlong "windows" contradicts'),
    ],
)
def test_long_texts_are_refused_with_the_way_out(
    module_client: TestClient, body: dict[str, Any], status: int, message: str
) -> None:
    answer = module_client.post(URL, json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_windows_may_be_as_many_as_the_limit(module_client: TestClient) -> None:
    texts = [*[LONG] * 42, *["good"] * 4]  # 256 windows
    assert module_client.post(URL, json={"inputs": texts, **WINDOWS}).status_code == 200
    answer = module_client.post(URL, json={"inputs": [*texts, "good"], **WINDOWS})
    assert (answer.status_code, "256 inputs and windows" in answer.text) == (413, True)


def test_windows_count_as_waiting_inputs(module_store: Store, serve: Serve) -> None:
    client = serve(store=module_store.root, max_windows=6)
    assert client.post(URL, json={"inputs": LONG, **WINDOWS}).status_code == 200
    text = client.get("/metrics").text
    line = next(line for line in text.splitlines() if line.startswith("sparserve_batch_inputs_sum"))
    assert float(line.split()[-1]) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"overlong": "cut"}, "overlong 'cut' is unknown"), ({"stride": 99}, "stride must be from 0 to 8")],
)
def test_classifier_refuses_wrong_options(module_store: Store, options: dict[str, Any], message: str) -> None:
    classify = Classifier.load(module_store, TASK, threads=1)
    with pytest.raises(InputError, match=message):
        classify(["good"], **options)


def test_windows_of_shorter_variants_share_at_most_half(store: Store, serve: Serve) -> None:
    publish(store, "lengths", max_length=32)
    publish(store, "lengths", "short", max_length=8)
    body = {"inputs": LONG, "overlong": "windows", "stride": 16}
    compared = serve().post("/v1/models/lengths/compare", json=body)
    assert compared.status_code == 200, compared.text
    assert compared.json()["items"][0]["windows"] == 3
