"""Bodies of vLLM's and SGLang's examples."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.tiny_bundles import LABELS, TASK


def test_vllm_example_classifies_with_the_first_listed_model(module_client: TestClient) -> None:
    model = module_client.get("/v1/models").json()["data"][0]["id"]
    texts = ["good film", "bad film"]
    answer = module_client.post("/classify", json={"model": model, "input": texts}).json()
    created, name = answer.pop("created"), answer.pop("id")
    assert isinstance(created, int)
    assert name.startswith("classify-")
    data = answer.pop("data")
    usage = {"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": 0, "prompt_tokens_details": None}
    assert answer == {"object": "list", "model": f"{TASK}/dense", "usage": usage}
    native = module_client.post(f"/v1/models/{TASK}/classify", json={"inputs": texts, "top_k": None}).json()
    assert [item.pop("index") for item in data] == [0, 1]
    for item, predictions in zip(data, native["predictions"], strict=True):
        scores = {one["label"]: one["score"] for one in predictions}
        probabilities = pytest.approx([scores[label] for label in LABELS])
        assert item == {"label": predictions[0]["label"], "probs": probabilities, "num_classes": 2}


@pytest.mark.parametrize("model", [{}, {"model": f"{TASK}/sparse90"}])
def test_vllm_path_with_version_takes_one_text(module_client: TestClient, model: dict[str, str]) -> None:
    answer = module_client.post("/v1/classify", json={**model, "input": "good film"})
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1


def test_vllm_long_text_is_cut_only_on_request(module_client: TestClient) -> None:
    body: dict[str, Any] = {"input": "good " * 50}
    refused = module_client.post("/classify", json=body)
    assert refused.status_code == 422
    assert "more than the 16 tokens" in refused.json()["error"]
    answer = module_client.post("/classify", json={**body, "truncate_prompt_tokens": -1})
    assert answer.json()["usage"]["prompt_tokens"] == 16


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "item 0 is a number, not a text"),
        ([{"type": "text", "text": "good"}], "item 0 is an object, not a text"),
        ([], "the list is empty"),
    ],
)
def test_vllm_input_is_texts_alone(module_client: TestClient, value: Any, message: str) -> None:
    answer = module_client.post("/classify", json={"input": value})
    assert answer.status_code == 422
    assert message in answer.json()["error"]
