"""POST .../compare: variants of a task side by side."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import TASK, graph, publish

URL = f"/v1/models/{TASK}/compare"
TEXTS = ["good film", "bad", "the film was dull", "fun"]


def test_compare_predictions_equal_those_of_classify(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": TEXTS}).json()
    for variant in ("dense", "sparse90"):
        alone = client.post(f"/v1/models/{TASK}/{variant}/classify", json={"inputs": TEXTS, "top_k": None}).json()
        for item, labels in zip(answer["items"], alone["predictions"], strict=True):
            prediction = item["predictions"][variant]
            assert prediction["label"] == labels[0]["label"]
            assert prediction["scores"] == pytest.approx({one["label"]: one["score"] for one in labels})


def test_compare_agreement_and_differences(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": TEXTS}).json()
    agree, differences = [], []
    for item in answer["items"]:
        one, other = item["predictions"]["dense"], item["predictions"]["sparse90"]
        agree.append(one["label"] == other["label"])
        differences.append(max(abs(one["scores"][label] - other["scores"][label]) for label in one["scores"]))
        assert item["agree"] is agree[-1]
        assert item["max_difference"] == pytest.approx(differences[-1])
    summary = answer["summary"]
    assert summary["items"] == len(TEXTS)
    assert summary["agreement"] == pytest.approx(np.mean(agree))
    assert summary["mean_difference"] == pytest.approx(np.mean(differences))
    assert summary["max_difference"] == pytest.approx(max(differences))


def test_compare_latency_ratios(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": TEXTS}).json()
    dense, sparse = answer["variants"]
    assert dense["reference"] and not sparse["reference"]
    assert dense["latency_ratio"] == 1
    assert sparse["latency_ratio"] == pytest.approx(dense["inference_seconds"] / sparse["inference_seconds"])
    assert answer["summary"]["latency_ratio"] == sparse["latency_ratio"]


def test_compare_variant_agrees_with_its_copy(store: Store, serve: Serve) -> None:
    publish(store, variant="copy", model=graph(seed=len("dense")))
    answer = serve().post(URL, json={"inputs": TEXTS, "variants": ["dense", "copy"]}).json()
    assert answer["summary"]["agreement"] == 1
    assert answer["summary"]["max_difference"] == 0


def test_compare_default_is_dense_and_the_default_variant(store: Store, serve: Serve) -> None:
    publish(store, variant="sparse95")
    store.set_default_variant(TASK, "sparse95")
    answer = serve().post(URL, json={"inputs": "good"}).json()
    assert answer["reference"] == "dense"
    assert [one["model"]["variant"] for one in answer["variants"]] == ["dense", "sparse95"]


def test_compare_default_dense_with_all_others(store: Store, serve: Serve) -> None:
    publish(store, variant="sparse95")
    answer = serve().post(URL, json={"inputs": "good"}).json()
    assert [one["model"]["variant"] for one in answer["variants"]] == ["dense", "sparse90", "sparse95"]


def test_compare_matches_labels_by_name(store: Store, serve: Serve) -> None:
    publish(store, variant="turned", labels=("positive", "negative"), model=graph(seed=len("dense")))
    answer = serve().post(URL, json={"inputs": "good", "variants": ["dense", "turned"]}).json()
    assert answer["items"][0]["agree"] is False


def test_compare_refuses_different_labels(store: Store, serve: Serve) -> None:
    publish(store, variant="stars", labels=("one", "two"))
    answer = serve().post(URL, json={"inputs": "good", "variants": ["dense", "stars"]})
    assert answer.status_code == 422
    assert "different labels" in answer.json()["detail"]


def test_compare_multi_label_agreement(store: Store, serve: Serve) -> None:
    publish(store, "topics", problem_type="multi_label_classification")
    publish(store, "topics", "sparse90", problem_type="multi_label_classification")
    answer = serve().post("/v1/models/topics/compare", json={"inputs": TEXTS}).json()
    for item in answer["items"]:
        chosen = [{k for k, v in one["scores"].items() if v >= 0.5} for one in item["predictions"].values()]
        assert item["agree"] is (chosen[0] == chosen[1])


def test_compare_regression_has_no_agreement(store: Store, serve: Serve) -> None:
    for variant in ("dense", "sparse90"):
        publish(
            store, "stars", variant, problem_type="regression", labels=("stars",), model=graph(1, seed=len(variant))
        )
    answer = serve().post("/v1/models/stars/compare", json={"inputs": TEXTS}).json()
    assert answer["summary"]["agreement"] is None
    assert answer["summary"]["max_difference"] > 0


def test_compare_refuses_a_task_with_one_variant(store: Store, serve: Serve) -> None:
    publish(store, "alone")
    answer = serve().post("/v1/models/alone/compare", json={"inputs": "good"})
    assert answer.status_code == 422
    assert "serves only dense" in answer.json()["detail"]


@pytest.mark.parametrize("variants", [["dense"], [], ["dense", "dense"], ["dense", 1], "dense"])
def test_compare_needs_two_variants(client: TestClient, variants: object) -> None:
    assert client.post(URL, json={"inputs": "good", "variants": variants}).status_code == 422


def test_compare_unknown_variant_is_404(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": "good", "variants": ["dense", "sparse99"]})
    assert answer.status_code == 404
    assert "sparse99" in answer.json()["detail"] and "dense, sparse90" in answer.json()["detail"]
