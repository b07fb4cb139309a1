"""The service's answers are those of `transformers.pipeline` on the same checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.settings import Settings

TEXTS = [
    "a good movie",
    "THE AWFUL PLOT!!!",
    "a",
    "naïve café — ½ 😀🎬 émigré",
    "هذا فيلم جيد جدا",
    "这部电影 很好",
    "tabs\tand\nnew lines\r\n and   spaces",
    "nul \x00 inside",
    "<script>alert('&amp;')</script>",
    "word " * 500,
    "\u200b\u202e zero width and right to left override",
]


@pytest.fixture(scope="module", params=["onnx", "sparse"])
def client(request: pytest.FixtureRequest, tiny_store: Path) -> Iterator[Any]:
    if request.param == "sparse":
        request.getfixturevalue("sparse_runtime")
    app = create_app(Settings(store=tiny_store, threads=1, runtime=request.param))
    with TestClient(app) as client:
        assert client.portal
        client.portal.call(app.state.service.loaded)
        yield client


@pytest.fixture(scope="module", params=["dense", "sparse60"])
def arm(request: pytest.FixtureRequest, tiny_store: Path) -> Any:
    """A variant, and the pipeline over the checkpoint that its bundle holds."""
    bundle = Store(tiny_store).open("tiny", request.param)
    folder = bundle.folder / "checkpoint"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return request.param, pipeline("text-classification", model=model, tokenizer=tokenizer), bundle.manifest.max_length


def classify(client: Any, variant: Any, **body: Any) -> Any:
    answer = client.post(f"/v1/models/tiny/{variant}/classify", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def assert_same(found: Any, expected: Any) -> None:
    assert [p["label"] for p in found] == [p["label"] for p in expected]
    assert [p["score"] for p in found] == pytest.approx([p["score"] for p in expected], abs=2e-6)


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [1, 2, None])
def test_labels_and_scores_are_the_pipelines(client: Any, arm: Any, function: str | None, top_k: int | None) -> None:
    variant, reference, max_length = arm
    found = classify(client, variant, inputs=TEXTS, top_k=top_k, function_to_apply=function)
    for text, predictions in zip(TEXTS, found, strict=True):
        expected = reference(text, top_k=top_k, function_to_apply=function, truncation=True, max_length=max_length)
        assert_same(predictions, expected)


def test_pairs_are_the_pipelines(client: Any, arm: Any) -> None:
    variant, reference, max_length = arm
    pairs = [{"text": "a good movie", "text_pair": "the plot"}, {"text": "dull " * 60, "text_pair": "long " * 60}]
    found = classify(client, variant, inputs=pairs, top_k=2)
    for pair, predictions in zip(pairs, found, strict=True):
        expected = reference(pair, top_k=2, truncation=True, max_length=max_length)
        assert_same(predictions, expected)


def test_one_text_and_a_list_of_one_are_the_same(client: Any, arm: Any) -> None:
    variant, *_ = arm
    assert json.dumps(classify(client, variant, inputs=TEXTS[0])) == json.dumps(
        classify(client, variant, inputs=TEXTS[:1])
    )


def test_every_variant_answers_its_own_sample_as_the_exporter_did(client: Any) -> None:
    variants = client.get("/v1/models/tiny").json()["variants"]
    assert len(variants) == 4
    for variant in variants:
        # Int8 rounds a token's activations together in the sparse runtime, a tensor's in stock onnxruntime.
        rounding = variant["runtime"] == "sparse" and variant["precision"] == "int8"
        assert variant["sample_difference"] < (0.1 if rounding else 1e-3), variant
