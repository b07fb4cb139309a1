"""GET /v1/models: what is served."""

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.settings import Settings
from tests.support.tiny_bundles import LABELS, TASK


def test_models_list_has_facts_of_each_variant(client: TestClient, store: Store) -> None:
    (task,) = client.get("/v1/models").json()["models"]
    assert task["task"] == TASK and task["default_variant"] == "dense" and task["labels"] == list(LABELS)
    dense, sparse = task["variants"]
    assert (dense["variant"], sparse["variant"]) == ("dense", "sparse90")
    assert dense["state"] == sparse["state"] == "ready"
    assert sparse["version"] == store.current(TASK, "sparse90")
    assert sparse["encoder_sparsity"] == 0.9
    assert client.get(f"/v1/models/{TASK}").json() == task


def test_models_variant_has_tensors_on_request(client: TestClient, store: Store) -> None:
    url = f"/v1/models/{TASK}/sparse90"
    expected = store.open(TASK, "sparse90").manifest.model_dump(mode="json")
    assert client.get(url, params={"tensors": True}).json()["manifest"] == expected
    del expected["sparsity"]["tensors"]
    assert client.get(url).json()["manifest"] == expected


def test_models_unknown_names_are_404(client: TestClient) -> None:
    assert TASK in client.get("/v1/models/none").json()["detail"]
    answer = client.get(f"/v1/models/{TASK}/none")
    assert answer.status_code == 404
    assert "dense, sparse90" in answer.json()["detail"]


def test_models_wrong_flag_is_422(client: TestClient) -> None:
    assert client.get(f"/v1/models/{TASK}/dense?tensors=perhaps").status_code == 422


@pytest.mark.parametrize("path", [TASK, f"{TASK}/dense", f"{TASK}/classify", "none"])
def test_models_503_before_the_store_was_read(store: Store, path: str) -> None:
    client = TestClient(create_app(Settings(store=store.root, threads=1)))  # never started, so nothing is ever read
    answer = client.get(f"/v1/models/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "has not been read yet" in answer.json()["detail"]
    assert "503" in client.get("/openapi.json").json()["paths"]["/v1/models/{task}/{variant}"]["get"]["responses"]
