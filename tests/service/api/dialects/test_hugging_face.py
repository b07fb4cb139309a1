"""Hugging Face's own client against the running service."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from huggingface_hub import InferenceClient

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import NewApp
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK


@pytest.fixture(scope="module")
def address(module_store: Store, new_app: NewApp) -> Iterator[str]:
    """Return the address of a running service."""
    with listening(new_app(store=module_store.root)) as found:
        yield f"http://{found}"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests keep the Hub's client offline; here it talks to ourselves."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("path", [f"/hf/{TASK}", f"/hf/{TASK}/sparse90"])
def test_hugging_face_client_gets_labels_and_scores(address: str, path: str) -> None:
    client = InferenceClient(model=address + path)
    found = client.text_classification("a good movie")
    assert [type(one).__name__ for one in found] == ["TextClassificationOutputElement"] * 2
    assert {one.label for one in found} == {"negative", "positive"}
    assert sum(one.score for one in found) == pytest.approx(1)
    assert found[0].score >= found[1].score
    (best,) = client.text_classification("a good movie", top_k=1)
    assert best == found[0]


def test_hugging_face_client_chooses_the_function(address: str) -> None:
    client = InferenceClient(model=f"{address}/hf/{TASK}")
    raw = client.text_classification("a good movie", function_to_apply="none")
    assert sum(one.score for one in raw) != pytest.approx(1)


def test_hugging_face_client_gets_the_reason_of_an_error(address: str) -> None:
    with pytest.raises(Exception, match="no-such-task"):
        InferenceClient(model=f"{address}/hf/no-such-task").text_classification("good")


def test_hugging_face_several_texts_are_several_lists(module_client: TestClient) -> None:
    body = {"inputs": ["good", "bad"], "parameters": {"top_k": None}, "options": {"wait_for_model": True}}
    found = module_client.post(f"/hf/{TASK}", json=body).json()
    assert [len(one) for one in found] == [2, 2]


def test_hugging_face_truncates_by_default(module_client: TestClient) -> None:
    body = {"inputs": "good " * 600}
    assert module_client.post(f"/hf/{TASK}", json=body).status_code == 200
    answer = module_client.post(f"/hf/{TASK}", json={**body, "parameters": {"truncation": False}})
    assert answer.status_code == 422
    assert "tokens" in answer.json()["error"]
