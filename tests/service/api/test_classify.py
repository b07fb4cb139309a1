"""POST .../classify: the pipeline's semantics over HTTP."""

import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.inference import load_bundle, probabilities
from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import LABELS, MAX_LENGTH, TASK, graph, publish

URL = f"/v1/models/{TASK}/classify"


def test_classify_one_text_gets_the_best_label(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": "good film"})
    assert answer.status_code == 200, answer.text
    (labels,) = answer.json()["predictions"]
    assert len(labels) == 1
    assert labels[0]["label"] in LABELS


def test_classify_scores_are_those_of_the_bundle(client: TestClient, store: Store) -> None:
    texts = ["good film", "bad", "the film was dull dull dull"]
    answer = client.post(URL, json={"inputs": texts, "top_k": None}).json()
    loaded = load_bundle(store.open(TASK, "dense"), threads=1)
    expected = probabilities(loaded.classifier.logits(loaded.tokenizer.encode(texts)), "single_label_classification")
    for labels, row in zip(answer["predictions"], expected, strict=True):
        found = {item["label"]: item["score"] for item in labels}
        np.testing.assert_allclose([found[label] for label in LABELS], row, rtol=1e-5)
        assert [item["score"] for item in labels] == sorted(found.values(), reverse=True)


def test_classify_names_the_exact_bundle(client: TestClient, store: Store) -> None:
    answer = client.post(f"/v1/models/{TASK}/sparse90/classify", json={"inputs": "good"}).json()
    assert answer["model"] == {"task": TASK, "variant": "sparse90", "version": store.current(TASK, "sparse90")}


def test_classify_uses_the_default_variant(store: Store, serve: Serve) -> None:
    store.set_default_variant(TASK, "sparse90")
    assert serve().post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "sparse90"


def test_classify_timings_add_up_and_are_in_the_header(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": ["good", "bad"]})
    stages = answer.json()["timings"]
    assert stages["queue_seconds"] + stages["tokenize_seconds"] + stages["inference_seconds"] <= stages["total_seconds"]
    names = [entry.split(";")[0] for entry in answer.headers["server-timing"].split(", ")]
    assert names == ["queue", "tokenize", "inference", "total"]


def test_classify_usage_of_each_input(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": ["good film", "good " * 50]}).json()
    assert answer["usage"] == [
        {"tokens": 4, "truncated": False, "windows": 1},
        {"tokens": MAX_LENGTH, "truncated": True, "windows": 1},
    ]


def test_classify_truncate_false_refuses_a_long_text(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": ["good", "good " * 50], "truncate": False})
    assert answer.status_code == 422
    assert f"item 1 has more than the {MAX_LENGTH} tokens" in answer.json()["detail"]


def test_classify_truncate_false_accepts_a_text_that_fits(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": "good " * (MAX_LENGTH - 2), "truncate": False})
    assert answer.json()["usage"] == [{"tokens": MAX_LENGTH, "truncated": False, "windows": 1}]


@pytest.mark.parametrize("top_k, count", [(1, 1), (2, 2), (9, 2), (None, 2)])
def test_classify_top_k_limits_the_labels(client: TestClient, top_k: int | None, count: int) -> None:
    answer = client.post(URL, json={"inputs": "good", "top_k": top_k}).json()
    assert len(answer["predictions"][0]) == count


def test_classify_function_to_apply(client: TestClient) -> None:
    def scores(function: str) -> dict[str, float]:
        body = {"inputs": "good", "top_k": None, "function_to_apply": function}
        labels = client.post(URL, json=body).json()["predictions"][0]
        return {item["label"]: item["score"] for item in labels}

    logits, softmax, sigmoid = scores("none"), scores("softmax"), scores("sigmoid")
    for label, logit in logits.items():
        assert sigmoid[label] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)
        assert softmax[label] == pytest.approx(np.exp(logit) / sum(map(np.exp, logits.values())), rel=1e-4)


def test_classify_multi_label_uses_sigmoid(store: Store, serve: Serve) -> None:
    publish(store, "topics", problem_type="multi_label_classification")
    client = serve()
    plain = client.post("/v1/models/topics/classify", json={"inputs": "good", "top_k": None}).json()
    named = client.post(
        "/v1/models/topics/classify", json={"inputs": "good", "top_k": None, "function_to_apply": "sigmoid"}
    ).json()
    assert plain["predictions"] == named["predictions"]


def test_classify_regression_returns_logits(store: Store, serve: Serve) -> None:
    publish(store, "stars", problem_type="regression", labels=("stars",), model=graph(1))
    body = {"inputs": ["good", "bad"], "function_to_apply": None}
    scores = serve().post("/v1/models/stars/classify", json=body).json()["predictions"]
    assert any(not 0 <= labels[0]["score"] <= 1 for labels in scores)


@pytest.mark.parametrize(
    "inputs",
    [
        "good film",
        ["good film", "bad"],
        {"text": "good", "text_pair": "bad"},
        [{"text": "good", "text_pair": "bad"}, {"text": "good"}, {"text": "bad", "text_pair": None}, "film"],
    ],
)
def test_classify_accepts_every_form_of_inputs(client: TestClient, inputs: object) -> None:
    answer = client.post(URL, json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == (len(inputs) if isinstance(inputs, list) else 1)


def test_classify_second_text_of_a_pair_counts(client: TestClient) -> None:
    body = {"inputs": [{"text": "good", "text_pair": "dull"}, "good dull"], "function_to_apply": "none"}
    answer = client.post(URL, json=body).json()
    assert [item["tokens"] for item in answer["usage"]] == [5, 4]
    assert answer["predictions"][0] != answer["predictions"][1]


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "good\x00bad", "😀", "סרט טוב", "\u202etxet", "e\u0301", "a" * 100_000]
)
def test_classify_accepts_odd_texts(client: TestClient, text: str) -> None:
    answer = client.post(URL, json={"inputs": text})
    assert answer.status_code == 200, answer.text


def test_classify_batch_answers_like_single_texts(serve: Serve) -> None:
    client = serve(max_batch_tokens=20)
    texts = ["good", "bad film " * 5, "the film was fun", "a", "dull " * 30, "fun film"]
    together = client.post(URL, json={"inputs": texts, "top_k": None}).json()["predictions"]
    for text, labels in zip(texts, together, strict=True):
        (alone,) = client.post(URL, json={"inputs": text, "top_k": None}).json()["predictions"]
        assert [item["label"] for item in labels] == [item["label"] for item in alone]
        assert [item["score"] for item in labels] == pytest.approx([item["score"] for item in alone], rel=1e-4)


def test_classify_short_request_stays_on_the_event_loop(client: TestClient) -> None:
    before = set(threading.enumerate())
    assert client.post(URL, json={"inputs": "good film"}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert set(threading.enumerate()) <= before


def test_classify_top_k_accepts_every_json_integer(client: TestClient) -> None:
    answers = [client.post(URL, json={"inputs": "good", "top_k": number}).json() for number in (2, 2.0)]
    assert answers[0]["predictions"] == answers[1]["predictions"]
    assert client.post(URL, json={"inputs": "good", "top_k": 2.5}).status_code == 422
