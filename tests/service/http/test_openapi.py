"""The OpenAPI document describes the service's answers."""

from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient

from tests.support.tiny_bundles import TASK

REQUESTS: list[tuple[str, str, str, Any]] = [
    ("get", "/livez", "/livez", None),
    ("get", "/readyz", "/readyz", None),
    ("get", "/info", "/info", None),
    ("get", "/v1/models", "/v1/models", None),
    ("get", "/v1/models/{task}", f"/v1/models/{TASK}", None),
    ("get", "/v1/models/{task}", "/v1/models/none", None),
    ("get", "/v1/models/{task}/{variant}", f"/v1/models/{TASK}/dense", None),
    ("get", "/v1/models/{task}/{variant}", f"/v1/models/{TASK}/classify", None),
    ("get", "/v1/models/{task}/{variant}", f"/v1/models/{TASK}/dense?tensors=x", None),
    ("get", "/v1/reports", "/v1/reports", None),
    ("get", "/v1/reports/{task}", "/v1/reports/none", None),
    ("get", "/v1/reports/{task}", "/v1/reports/none?format=pdf", None),
    ("post", "/v1/models/{task}/classify", f"/v1/models/{TASK}/classify", {"inputs": "good"}),
    ("post", "/v1/models/{task}/classify", f"/v1/models/{TASK}/classify", {"inputs": []}),
    ("post", "/v1/models/{task}/classify", f"/v1/models/{TASK}/classify", {"inputs": ["a"] * 300}),
    ("post", "/v1/models/{task}/classify", "/v1/models/none/classify", {"inputs": "a"}),
    ("post", "/v1/models/{task}/{variant}/classify", f"/v1/models/{TASK}/dense/classify", {"inputs": "good"}),
    ("post", "/v1/models/{task}/compare", f"/v1/models/{TASK}/compare", {"inputs": "good"}),
]


@pytest.fixture
def client(module_client: TestClient) -> TestClient:
    return module_client


@pytest.mark.parametrize("method, path, url, body", REQUESTS, ids=[f"{one[0]} {one[2]}" for one in REQUESTS])
def test_openapi_declares_every_answer(client: TestClient, method: str, path: str, url: str, body: object) -> None:
    document = client.get("/openapi.json").json()
    answer = client.request(method, url, json=body) if body else client.request(method, url)
    declared = document["paths"][path][method]["responses"][str(answer.status_code)]
    schema = declared["content"][answer.headers["content-type"]]["schema"]
    jsonschema.validate(answer.json(), {**schema, "components": document["components"]})


def test_openapi_declares_errors_as_problems(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        declared = "application/json" if path.startswith("/v2") else "application/problem+json"
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == [declared]


def test_openapi_declares_errors_of_bodies(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            if method in ("post", "put"):
                assert {"408", "413", "503"} <= set(operation["responses"]), path
            else:
                assert "408" not in operation["responses"], path


@pytest.mark.parametrize("inputs", ["a", ["a"], {"text": "a"}, [{"text": "a", "text_pair": "b"}, "c"], [{"text": "a"}]])
def test_openapi_schema_accepts_every_form_of_inputs(client: TestClient, inputs: object) -> None:
    schemas = client.get("/openapi.json").json()["components"]
    schema = {"$ref": "#/components/schemas/ClassifyRequest", "components": schemas}
    jsonschema.validate({"inputs": inputs}, schema)
    wrong: Any
    for wrong in (1, [], [1], [[]], {}, {"text": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"inputs": wrong}, schema)


def test_openapi_declares_request_options_where_they_are_read(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            headers = {one["name"] for one in operation.get("parameters", []) if one["in"] == "header"}
            reads = method == "post" and path.endswith(
                ("/classify", "/compare", "/moderations", "predict", "/infer", "/rerank")
            )
            reads = reads or path.startswith("/hf/")
            assert ({"X-Request-Timeout", "X-Routing-Key"} <= headers) == reads, path
