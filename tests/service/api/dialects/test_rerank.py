"""Reranking in the shapes of text-embeddings-inference and of Cohere, and models with one score elsewhere."""

import math
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest
from fastapi.testclient import TestClient
from huggingface_hub import InferenceClient

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import NewApp, Serve
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK, graph, publish

QUERY = {"query": "a good film", "texts": ["the film", "bad", "dull fun film"]}
RANKER: dict[str, Any] = {
    "labels": ("relevance",),
    "problem_type": "multi_label_classification",
    "inputs": "pair",
    "model": graph(1, seed=5),
}


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A classifier, a reranker and a regression."""
    store = Store(tmp_path_factory.mktemp("ranking") / "store")
    publish(store)
    publish(store, "search", **RANKER)
    publish(store, "stars", labels=("score",), problem_type="regression", model=graph(1, seed=6))
    return store


@pytest.fixture(scope="module")
def address(module_store: Store, new_app: NewApp) -> Iterator[str]:
    """The address of a running service."""
    with listening(new_app(store=module_store.root)) as found:
        yield f"http://{found}"


def test_tei_rerank_orders_texts_by_the_sigmoid_of_their_logits(module_client: TestClient) -> None:
    ranked = module_client.post("/tei/search/rerank", json=QUERY).json()
    assert sorted(one["index"] for one in ranked) == [0, 1, 2]
    assert [one["score"] for one in ranked] == sorted((one["score"] for one in ranked), reverse=True)
    pairs = [[QUERY["query"], text] for text in QUERY["texts"]]
    raw = module_client.post("/tei/search/dense/predict", json={"inputs": pairs, "raw_scores": True}).json()
    for one in ranked:
        assert set(one) == {"index", "score"}
        assert one["score"] == pytest.approx(1 / (1 + math.exp(-raw[one["index"]][0]["score"])), abs=1e-5)


def test_tei_rerank_returns_raw_scores_and_texts_on_request(module_client: TestClient) -> None:
    body = {**QUERY, "raw_scores": True, "return_text": True}
    ranked = module_client.post("/tei/search/dense/rerank", json=body).json()
    assert [one["text"] for one in ranked] == [QUERY["texts"][one["index"]] for one in ranked]
    assert any(not 0 <= one["score"] <= 1 for one in ranked)


def test_tei_info_names_a_reranker(module_client: TestClient) -> None:
    assert module_client.get("/tei/search/info").json()["model_type"]["reranker"]["id2label"] == {"0": "relevance"}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_cohere_rerank_returns_the_best_documents(module_client: TestClient, path: str) -> None:
    documents = [{"text": "the film"}, "bad", "dull fun film"]
    body = {"model": "search", "query": QUERY["query"], "documents": documents}
    everything = module_client.post("/tei/search/rerank", json=QUERY).json()
    answer = module_client.post(path, json={**body, "top_n": 2, "return_documents": True}).json()
    assert [(one["index"], one["relevance_score"]) for one in answer["results"]] == [
        (one["index"], pytest.approx(one["score"], abs=1e-5)) for one in everything[:2]
    ]
    assert answer["results"][0]["document"] == {"text": QUERY["texts"][everything[0]["index"]]}
    assert answer["model"] == "search/dense"
    assert answer["meta"]["tokens"]["input_tokens"] > 0
    without = module_client.post(path, json={**body, "model": "search/dense"}).json()
    assert [set(one) for one in without["results"]] == [{"index", "relevance_score"}] * 3


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "/rerank",
            QUERY,
            422,
            "several tasks: send to /tei/TASK/rerank; the tasks are movie-sentiment, search, stars",
        ),
        (f"/tei/{TASK}/rerank", QUERY, 422, "is a classifier of 2 labels and cannot rank documents"),
        ("/v1/rerank", {"model": TASK, "query": "a", "documents": ["b"]}, 422, "cannot rank documents"),
        ("/v1/rerank", {"model": "none", "query": "a", "documents": ["b"]}, 404, "none"),
        ("/tei/search/rerank", {**QUERY, "texts": []}, 400, "no documents"),
        ("/tei/search/rerank", {**QUERY, "query": ""}, 400, "the query is empty"),
        ("/tei/search/rerank", {**QUERY, "texts": ["a", ""]}, 400, "document 1 is empty"),
        ("/tei/search/rerank", {**QUERY, "texts": ["a", 5]}, 422, "document 1 is neither a text"),
        ("/tei/search/rerank", {**QUERY, "texts": ["a"] * 300}, 413, "300 inputs"),
        ("/tei/search/rerank", {**QUERY, "texts": ["good " * 60]}, 413, "more than the 16 tokens"),
        (
            "/v1/rerank",
            {"model": "search", "query": "a", "documents": ["b"], "max_tokens_per_doc": 4},
            422,
            "cuts query and document at 16 tokens together",
        ),
        ("/v1/models/search/classify", {"inputs": "good", "top_k": 2}, 422, "one score for each input and no labels"),
        ("/hf/stars", {"inputs": "good", "parameters": {"top_k": 3}}, 422, "stars/dense has one score for each input"),
    ],
)
def test_rerank_refuses_what_it_cannot_answer(
    module_client: TestClient, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = module_client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


def test_rerank_counts_the_query_for_each_document(module_store: Store, serve: Serve) -> None:
    client = serve(store=module_store.root, max_body_bytes=4_000)
    body = {"model": "search", "query": "a" * 399, "documents": ["b"] * 10}
    assert client.post("/v1/rerank", json=body).status_code == 200
    answer = client.post("/v1/rerank", json={**body, "documents": [*["b"] * 9, "bb"]})
    assert answer.status_code == 413
    assert "10 documents have 4001 characters" in answer.json()["error"]


def test_hugging_face_client_gets_one_score(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # As transformers' pipeline: a regression has its value, any other model with one label the sigmoid.
    regression, ranker = (InferenceClient(model=f"{address}/hf/{task}") for task in ("stars", "search"))
    (value,) = regression.text_classification("a good film")
    (raw,) = regression.text_classification("a good film", function_to_apply="none")
    assert (value.label, value.score) == ("score", raw.score)
    (score,) = ranker.text_classification("a good film")
    (logit,) = ranker.text_classification("a good film", function_to_apply="none")
    assert score.score == pytest.approx(1 / (1 + math.exp(-logit.score)), abs=1e-5)


def test_cohere_client_reranks(address: str) -> None:
    with httpx.Client() as http:
        client = cohere.Client("no key", base_url=address, httpx_client=http)
        answer = client.rerank(
            model="search", query=QUERY["query"], documents=QUERY["texts"], top_n=2, return_documents=True
        )
    assert [one.relevance_score for one in answer.results] == sorted(
        (one.relevance_score for one in answer.results), reverse=True
    )
    assert answer.results[0].document
    assert answer.results[0].document.text == QUERY["texts"][answer.results[0].index]
