"""text-embeddings-inference's protocol."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.tiny_bundles import TASK

URL = f"/tei/{TASK}/predict"


def test_tei_one_input_is_a_flat_list(module_client: TestClient) -> None:
    found = module_client.post(URL, json={"inputs": "a good movie"}).json()
    assert [set(one) for one in found] == [{"label", "score"}] * 2
    assert found[0]["score"] >= found[1]["score"]
    assert found == module_client.post(URL, json={"inputs": ["a good movie"]}).json()


def test_tei_pair_is_one_input_and_batch_is_nested(module_client: TestClient) -> None:
    pair = module_client.post(URL, json={"inputs": ["good", "bad"]}).json()
    batch = module_client.post(URL, json={"inputs": [["good"], ["good", "bad"]]}).json()
    assert [len(one) for one in batch] == [2, 2]
    assert [one["label"] for one in batch[1]] == [one["label"] for one in pair]
    assert batch[1][0]["score"] == pytest.approx(pair[0]["score"], abs=1e-5)


def test_tei_raw_scores_are_logits(module_client: TestClient) -> None:
    raw = module_client.post(URL, json={"inputs": "good", "raw_scores": True}).json()
    assert sum(one["score"] for one in raw) != pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": ""}, 400, "Empty"),
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": [["good"], []]}, 400, "Empty"),
        ({"inputs": [["good"], ["a", ""]]}, 400, "Empty"),
        ({"inputs": ["a", "b", "c"]}, 422, "Validation"),
        ({"inputs": [["a"], "b"], "raw_scores": "yes"}, 422, "Validation"),
        ({"inputs": 5}, 422, "Validation"),
        ({"inputs": [5]}, 422, "Validation"),
        ({"inputs": [["a"], [["b"]]]}, 422, "Validation"),
        ({"inputs": "good", "truncation_direction": "Left"}, 422, "Validation"),
        ({"inputs": "good " * 600}, 413, "Validation"),
        ({"inputs": [["good"]] * 300}, 413, "Validation"),
    ],
)
def test_tei_errors_have_status_and_type(
    module_client: TestClient, body: dict[str, Any], status: int, kind: str
) -> None:
    answer = module_client.post(URL, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error_type"] == kind
    assert answer.json()["error"]


def test_tei_truncates_on_request(module_client: TestClient) -> None:
    assert module_client.post(URL, json={"inputs": "good " * 600, "truncate": True}).status_code == 200


def test_tei_root_serves_a_single_task(module_client: TestClient) -> None:
    found = module_client.post("/predict", json={"inputs": "good"}).json()
    assert found == module_client.post(URL, json={"inputs": "good"}).json()
    assert module_client.get("/health").status_code == 200


def test_tei_health_and_info_of_a_model(module_client: TestClient) -> None:
    for base in (f"/tei/{TASK}", f"/tei/{TASK}/sparse90"):
        assert module_client.get(f"{base}/health").status_code == 200
        info = module_client.get(f"{base}/info").json()
        labels = info["model_type"]["classifier"]
        assert {labels["id2label"][str(index)]: index for index in (0, 1)} == labels["label2id"]
        assert info["max_input_length"] > 0
    assert info["model_id"] == f"{TASK}/sparse90"
    assert module_client.get("/tei/other/health").status_code == 404
    assert module_client.get(f"/tei/{TASK}/other/info").status_code == 404
