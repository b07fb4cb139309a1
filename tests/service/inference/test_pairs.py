"""Pairs of texts for a graph that rejects them: refused before they can fail the batch that they would share."""

from collections.abc import Callable

import numpy as np
import onnx
from fastapi.testclient import TestClient
from onnx import numpy_helper

from sparserve.models.bundle.store import Store
from sparserve.service.core import ServingCore
from tests.support.tiny_bundles import TASK, graph, publish

PAIR = {"text": "good film", "text_pair": "bad"}


def one_type() -> bytes:
    """The tiny graph, with an embedding for one token type only, as a BERT with `type_vocab_size` 1."""
    model = onnx.load_from_string(graph())
    (types,) = (tensor for tensor in model.graph.initializer if tensor.name == "types")
    types.CopyFrom(numpy_helper.from_array(np.array(numpy_helper.to_array(types)[:1]), "types"))
    return model.SerializeToString()


def test_pair_that_graph_rejects_is_refused_alone(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    publish(store, variant="one-type", model=one_type())
    client = serve()
    url = f"/v1/models/{TASK}/one-type/classify"
    for inputs in (PAIR, ["good", PAIR]):
        answer = client.post(url, json={"inputs": inputs})
        assert answer.status_code == 422
        place = 0 if inputs is PAIR else 1
        assert f"item {place} is a pair of texts, but {TASK}/one-type has no embedding" in answer.json()["detail"]
        assert client.post(url, json={"inputs": "good"}).status_code == 200
    assert service_of(client).catalog.engine(TASK, "one-type").health.healthy
    assert client.post(f"/v1/models/{TASK}/dense/classify", json={"inputs": PAIR}).status_code == 200


def test_pair_is_refused_by_the_variant_of_a_comparison_that_rejects_it(
    store: Store, serve: Callable[..., TestClient]
) -> None:
    publish(store, variant="one-type", model=one_type())
    body = {"inputs": PAIR, "variants": ["dense", "one-type"]}
    answer = serve().post(f"/v1/models/{TASK}/compare", json=body)
    assert answer.status_code == 422, answer.text
    assert f"{TASK}/one-type has no embedding" in answer.json()["detail"]
