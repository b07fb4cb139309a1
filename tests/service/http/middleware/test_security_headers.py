"""Headers for browsers: no sniffing, no frames, no caching of predictions, and no other origins by default."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from sparserve.service.settings import Settings
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"
ORIGIN = "https://app.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.mark.parametrize("url", ["/", "/docs", "/livez", "/v1/models", "/nope", "/metrics", "/openapi.json"])
def test_security_headers_on_every_answer(module_client: TestClient, url: str) -> None:
    headers = module_client.get(url).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors" in headers["content-security-policy"]


def test_security_headers_forbid_caching_predictions(module_client: TestClient) -> None:
    for url in (URL, f"/hf/{TASK}", f"/tei/{TASK}/predict"):
        assert module_client.post(url, json={"inputs": "good"}).headers["cache-control"] == "no-store"
    assert module_client.get("/").headers["cache-control"] == "no-cache"


def test_cors_is_off_by_default(module_client: TestClient) -> None:
    answer = module_client.post(URL, json={"inputs": "good"}, headers={"Origin": ORIGIN})
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert module_client.options(URL, headers=PREFLIGHT).status_code == 405


def test_cors_allows_configured_origins(serve: Serve) -> None:
    client = serve(cors_origins=[ORIGIN])
    preflight = client.options(URL, headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    answer = client.post(URL, json={"inputs": "good"}, headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in answer.headers
    other = {**PREFLIGHT, "Origin": "https://other.example"}
    assert client.options(URL, headers=other).status_code == 400
    assert "access-control-allow-origin" not in client.options(URL, headers=other).headers


def test_cors_preflight_needs_no_key(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    client = serve(cors_origins=["*"], keys_file=tmp_path / "keys")
    assert client.options(URL, headers=PREFLIGHT).status_code == 200
    refused = client.post(URL, json={"inputs": "good"}, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://app.example/x", "", "ftp://a"])
def test_settings_refuse_an_invalid_origin(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(cors_origins=[origin])


@pytest.mark.parametrize("origin", ["*", "http://localhost:3000", "https://[::1]:8443", "https://a-b.example"])
def test_settings_accept_origins(origin: str) -> None:
    assert Settings(cors_origins=[origin]).cors_origins == [origin]


def test_settings_refuse_a_missing_keys_file(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="sparserve keys create"):
        Settings(keys_file=tmp_path / "none")
