"""Pairs for a task of single texts, and the reverse: a warning or a refusal in every protocol."""

from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import TASK, publish

PAIR = {"text": "good film", "text_pair": "bad"}
SINGLE, PAIRS = "single-task", "pair-task"
HEADER = "x-sparserve-warning"


@pytest.fixture
def store(store: Store) -> Store:
    """A task of single texts, one of pairs, and one of a bundle that does not say."""
    for variant in ("dense", "sparse90"):
        publish(store, SINGLE, variant, inputs="single")
        publish(store, PAIRS, variant, inputs="pair")
    return store


def tensors(inputs: Any) -> dict[str, Any]:
    """Return an input as a request of the Open Inference Protocol."""
    fields = inputs if isinstance(inputs, dict) else {"text": inputs}
    parts = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [text]} for name, text in fields.items()]
    return {"inputs": parts}


def calls(task: str, inputs: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the same request in every protocol over HTTP."""
    nested = [[inputs["text"], inputs["text_pair"]]] if isinstance(inputs, dict) else inputs
    body = {"inputs": inputs}
    return [
        (f"/v1/models/{task}/classify", body),
        (f"/v1/models/{task}/sparse90/classify", body),
        (f"/v1/models/{task}/compare", body),
        (f"/hf/{task}", body),
        (f"/tei/{task}/predict", {"inputs": nested}),
        (f"/v2/models/{task}/infer", tensors(inputs)),
    ]


@pytest.mark.parametrize("task, inputs", [(SINGLE, PAIR), (PAIRS, "good film")])
@pytest.mark.parametrize("setting", ["warn", "refuse"])
def test_other_kind_of_input_is_warned_of_or_refused(serve: Serve, task: str, inputs: Any, setting: str) -> None:
    client = serve(input_mismatch=setting)
    sent, trained = ("pair of texts", "single texts") if task == SINGLE else ("single text", "pairs of texts")
    for path, body in calls(task, inputs):
        answer = client.post(path, json=body)
        variant = "sparse90" if "sparse90" in path else "dense"
        message = f"item 0 is a {sent}, but {task}/{variant} was trained on {trained}: send "
        if setting == "refuse":
            assert answer.status_code == 422, path
            assert answer.json()["detail"].startswith(message), path
            assert HEADER not in answer.headers
            continue
        assert answer.status_code == 200, path
        assert answer.headers[HEADER].startswith(message), path
        if path.startswith("/v1"):
            assert answer.json()["warnings"] == answer.headers[HEADER].split(" | "), path


@pytest.mark.parametrize("task, inputs", [(SINGLE, "good"), (PAIRS, PAIR), (TASK, "good"), (TASK, PAIR)])
@pytest.mark.parametrize("setting", ["warn", "refuse"])
def test_same_or_unknown_kind_of_input_is_answered_as_ever(serve: Serve, task: str, inputs: Any, setting: str) -> None:
    client = serve(input_mismatch=setting)
    for path, body in calls(task, inputs):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, path
        assert HEADER not in answer.headers
        assert b"warnings" not in answer.content
    classified = orjson.loads(client.post(f"/v1/models/{task}/classify", json={"inputs": inputs}).content)
    assert list(classified) == ["model", "predictions", "usage", "timings"]


def test_warning_counts_the_inputs_and_names_the_first(serve: Serve) -> None:
    answer = serve().post(f"/v1/models/{SINGLE}/classify", json={"inputs": ["good", PAIR, PAIR]}).json()
    (warning,) = answer["warnings"]
    assert warning.startswith("item 1 (and 1 more) is a pair of texts")


def test_models_have_the_kind_of_input(client: TestClient) -> None:
    kinds = {task["task"]: task["inputs"] for task in client.get("/v1/models").json()["models"]}
    assert kinds == {SINGLE: "single", PAIRS: "pair", TASK: None}


def test_openapi_has_warnings_that_may_be_absent(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ClassifyAnswer", "CompareAnswer"):
        assert schemas[name]["properties"]["warnings"]["type"] == "array"
        assert "warnings" not in schemas[name]["required"]


def test_candidate_of_another_kind_of_input_is_refused(store: Store, serve: Serve) -> None:
    publish(store, SINGLE, "pairs", inputs="pair")
    policy = {"mode": "split", "candidate": "pairs", "share": 1.0}
    client = serve(admin_without_key=True)
    answer = client.put(f"/v1/compare/{SINGLE}", json=policy)
    assert answer.status_code == 422, answer.text
    assert "trained on pairs of texts" in answer.json()["detail"]
    other = serve(experiments={SINGLE: policy})
    answered = other.post(f"/v1/models/{SINGLE}/classify", json={"inputs": "good"}).json()
    assert answered["model"]["variant"] == "dense"
