"""A reverse proxy with a path prefix, which it removes or not."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from sparserve.service.app import PROTOCOLS
from sparserve.service.security.key_file import create
from sparserve.service.settings import OWN_SEGMENTS, Settings
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import TASK

CLASSIFY = f"/v1/models/{TASK}/classify"
PREFIX = "/team/sparserve"


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve(root_path=PREFIX)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_root_path_answers_with_the_prefix_and_without(client: TestClient, prefix: str) -> None:
    assert client.post(prefix + CLASSIFY, json={"inputs": "good"}).status_code == 200
    assert client.post(f"{prefix}/v1/models/none/classify", json={"inputs": "good"}).status_code == 404
    for path in ("/", "/v1/models", "/livez", "/docs", "/pages/app/app.js", "/readyz"):
        assert client.get(prefix + path).status_code == 200, path
    problem = client.post(f"{prefix}/v2/models/none/infer", json={})
    assert problem.headers["content-type"] == "application/json"
    assert 'route="/v1/models/{task}/classify",status="200"} 1.0' in client.get(f"{prefix}/metrics").text


def test_root_path_is_the_server_of_the_openapi_document(client: TestClient, module_client: TestClient) -> None:
    assert client.get("/openapi.json").json()["servers"] == [{"url": PREFIX}]
    assert module_client.get("/openapi.json").json()["servers"] == [{"url": "/"}]


def test_root_path_is_removed_once_and_in_whole_segments(client: TestClient) -> None:
    assert client.get(PREFIX + PREFIX + "/v1/models").status_code == 404
    assert client.get("/team/sparserve2/v1/models").status_code == 404
    assert client.get(PREFIX).url.path == f"{PREFIX}/"


@pytest.mark.parametrize("prefix", ["", PREFIX, PREFIX + PREFIX, "/v1" + PREFIX])
def test_root_path_leads_around_no_check(serve: Serve, tmp_path: Path, prefix: str) -> None:
    keys = tmp_path / "keys"
    classify = create(keys, "classify", frozenset({"classify"}))
    client = serve(root_path=PREFIX, keys_file=keys)
    headers = {"X-Api-Key": classify, "Content-Type": "application/json"}
    assert client.post(f"{prefix}/v1/admin/refresh", headers=headers).status_code in (403, 404)
    assert client.post(f"{prefix}/v1/models/{TASK}/dense/promote", headers=headers, json={}).status_code in (403, 404)
    assert client.post(prefix + CLASSIFY, json={"inputs": "good"}).status_code == 401


@pytest.mark.parametrize("path", ["/", "name", "/name/", "/a//b", "/a b", "/a\n", "/v1", "/docs/x", "/metrics"])
def test_root_path_must_be_a_prefix_unlike_own_paths(path: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=path)


def test_own_segments_are_those_of_all_routes() -> None:
    paths = [route.path for protocol in PROTOCOLS for route in protocol.router.routes]
    assert {path.split("/")[1] for path in paths} - {""} | {"openapi.json"} == OWN_SEGMENTS
