"""HEAD, Allow and trailing slashes, under every protocol."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.service.security.key_file import create
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import TASK

CLASSIFY = f"/v1/models/{TASK}/classify"
INFER = f"/v2/models/{TASK}/infer"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}


@pytest.mark.parametrize("path", ["/livez", "/", "/metrics", "/v2/health/ready", f"/tei/{TASK}/info", "/v1/models"])
def test_head_answers_like_get_without_a_body(module_client: TestClient, path: str) -> None:
    head, get = module_client.head(path), module_client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert head.headers["content-length"] == str(len(get.content))


def test_head_is_counted_as_head(module_client: TestClient) -> None:
    module_client.head(f"/v2/models/{TASK}")
    assert 'http_requests_total{method="HEAD",route="/v2/models/{task}"' in module_client.get("/metrics").text


@pytest.mark.parametrize("path", [CLASSIFY, INFER, f"/hf/{TASK}", f"/tei/{TASK}/predict"])
def test_head_of_a_post_route_is_405(module_client: TestClient, path: str) -> None:
    answer = module_client.head(path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        (f"/v1/compare/{TASK}", "DELETE, GET, HEAD, PUT"),
        ("/livez", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        (CLASSIFY, "POST"),
        (INFER, "POST"),
    ],
)
def test_allow_lists_every_method(serve: Serve, path: str, allow: str) -> None:
    answer = serve(admin_without_key=True).options(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path", ["/livez", "/v2", "/v2/health/live", f"/v2/models/{TASK}/ready", f"/tei/{TASK}/health"]
)
def test_trailing_slash_is_ignored(module_client: TestClient, path: str) -> None:
    assert module_client.get(f"{path}/", follow_redirects=False).content == module_client.get(path).content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CLASSIFY, {"inputs": "good"}),
        (INFER, {"inputs": [TENSOR]}),
        (f"/hf/{TASK}", {"inputs": "good"}),
        (f"/tei/{TASK}/predict", {"inputs": "good"}),
    ],
)
def test_trailing_slash_keeps_the_body(module_client: TestClient, path: str, body: dict[str, Any]) -> None:
    assert module_client.post(f"{path}/", json=body, follow_redirects=False).status_code == 200


def test_trailing_slash_evades_no_key(serve: Serve, store: Store, tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "ci", frozenset({"classify"}))
    client = serve(keys_file=tmp_path / "keys")
    mine = {"X-Api-Key": key}
    assert client.get("/v2/health/ready/").status_code == 200
    assert client.head("/v1/models").status_code == 401
    assert client.get("/v1/models/").status_code == 401
    assert client.get("/v1/models/", headers=mine).status_code == 200
    for path in ("/v1/admin/refresh/", f"/v1/models/{TASK}/dense/rollback/", f"/v1/compare/{TASK}/disagreements/"):
        assert client.post(path, headers=mine).status_code == 403


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/v2/nowhere", "application/json"),
        (f"/v2/models/{TASK}/nowhere", "application/json"),
        ("/v2//", "application/json"),
        ("/v20", "application/problem+json"),
        ("/hf/a/b/c", "application/problem+json"),
        ("/tei/a/b/c", "application/problem+json"),
        ("/v1/nowhere", "application/problem+json"),
    ],
)
def test_unknown_path_has_its_protocols_media_type(module_client: TestClient, path: str, media_type: str) -> None:
    answer = module_client.get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == media_type
    assert answer.json()["error"]
    assert answer.json()["error_type"] == "Validation"


def test_query_chooses_no_version(module_client: TestClient) -> None:
    answer = module_client.post(f"{INFER}?variant=sparse90", json={"model_name": TASK, "inputs": [TENSOR]})
    assert answer.json()["model_version"] == "dense"
