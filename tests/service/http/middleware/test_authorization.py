"""Authorization: keys, their scopes and rates, on every protocol, before a body is read."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.bundle.store import Store
from sparserve.service.api import admin
from sparserve.service.api.dialects.open_inference import PROBLEM_MEDIA_TYPES
from sparserve.service.http.middleware.authorization import AuthorizationMiddleware, RequestAuthorization
from sparserve.service.http.problems import problem_media_type
from sparserve.service.observability.metrics import Metrics
from sparserve.service.security.api_keys import Keyring, Scope
from sparserve.service.security.authorizer import Authorizer
from sparserve.service.security.key_file import create
from sparserve.service.security.scopes import ADMIN, ANY, CLASSIFY, required_scopes
from tests.support.service.fixtures import NewApp, Serve
from tests.support.tiny_bundles import TASK

CLASSIFY_URL = f"/v1/models/{TASK}/classify"
CREDENTIALS = Path(__file__).parents[3] / "attacks" / "credentials"
INFER = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}
TEXT = {"inputs": "good"}
NEED_CLASSIFY: list[tuple[str, str, Any]] = [
    ("POST", CLASSIFY_URL, TEXT),
    ("POST", f"/v1/models/{TASK}/dense/classify", TEXT),
    ("POST", f"/v1/models/{TASK}/compare", TEXT),
    ("POST", f"/hf/{TASK}", TEXT),
    ("POST", f"/hf/{TASK}/dense", TEXT),
    ("POST", "/predict", TEXT),
    ("POST", f"/tei/{TASK}/predict", TEXT),
    ("POST", f"/v2/models/{TASK}/infer", INFER),
    ("POST", f"/v2/models/{TASK}/versions/dense/infer", INFER),
]
NEED_ANY: list[tuple[str, str, Any]] = [
    ("GET", "/info", None),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{TASK}", None),
    ("GET", "/v1/reports", None),
    ("GET", f"/tei/{TASK}/info", None),
    ("GET", "/v2", None),
    ("GET", f"/v2/models/{TASK}/ready", None),
    ("POST", "/v2/repository/index", None),
]
NEED_ADMIN: list[tuple[str, str, Any]] = [
    ("POST", "/v1/admin/refresh", None),
    ("GET", "/v1/admin/overrides", None),
    ("POST", f"/v1/models/{TASK}/dense/unpin", None),
    ("POST", f"/v2/repository/models/{TASK}/load", None),
]
OPEN = ["/", "/docs", "/openapi.json", "/pages/style.css", "/livez", "/readyz", "/health", "/v2/health/live"]
OPEN += ["/v2/health/ready", "/metrics"]
Keys = dict[str, str]


@pytest.fixture(scope="module")
def keyed(
    module_store: Store, tmp_path_factory: pytest.TempPathFactory, new_app: NewApp
) -> Iterator[tuple[TestClient, Keys]]:
    """A service that asks for keys, and a key of each scope."""
    folder = tmp_path_factory.mktemp("keyed")
    scopes: dict[str, set[Scope]] = {"classify": {"classify"}, "admin": {"admin"}, "both": {"classify", "admin"}}
    keys = {name: create(folder / "keys", name, frozenset(found)) for name, found in scopes.items()}
    app = new_app(store=module_store.root, keys_file=folder / "keys")
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.portal
        client.portal.call(app.state.service.loaded)
        yield client, keys


def test_authorization_names_client_and_weight(module_store: Store, tmp_path: Path, new_app: NewApp) -> None:
    """A request's share of the machine is its key's, or without keys its address's."""
    seen: list[tuple[str, float]] = []

    def ask(headers: dict[str, str], **settings: Any) -> None:
        app = new_app(store=module_store.root, **settings)
        with TestClient(app) as client:
            assert client.portal
            client.portal.call(app.state.service.loaded)
            batcher = app.state.service.batcher
            run = batcher.run

            async def spy(*inputs: Any, **options: Any) -> Any:
                seen.append((options["client"], options["weight"]))
                return await run(*inputs, **options)

            batcher.run = spy
            assert client.post(CLASSIFY_URL, json=TEXT, headers=headers).status_code == 200
            assert client.post(f"/v1/models/{TASK}/compare", json=TEXT, headers=headers).status_code == 200

    path = tmp_path / "keys"
    sent = create(path, "heavy", frozenset({"classify"}), weight=3)
    key = Keyring(path).find(sent)
    assert key is not None
    ask(bearer(sent), keys_file=path)
    ask({})
    assert seen == [(f"key {key.id}", 3.0)] * 3 + [("address testclient", 1.0)] * 3


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "url", "body"), NEED_CLASSIFY + NEED_ANY + NEED_ADMIN)
def test_authorization_without_a_key_is_401(keyed: tuple[TestClient, Keys], method: str, url: str, body: Any) -> None:
    client, keys = keyed
    answer = client.request(method, url, json=body)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="sparserve"'
    assert answer.headers["content-type"] == problem_media_type(url, PROBLEM_MEDIA_TYPES)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "X-Api-Key" in answer.json()["error"]
    wrong = client.request(method, url, json=body, headers=bearer(keys["both"][:-1]))
    assert wrong.status_code == 401
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("requests", "allowed", "forbidden"),
    [(NEED_CLASSIFY, "classify", "admin"), (NEED_ADMIN, "admin", "classify"), (NEED_ANY, "admin", None)],
)
def test_authorization_follows_the_keys_scopes(
    keyed: tuple[TestClient, Keys], requests: list[tuple[str, str, Any]], allowed: str, forbidden: str | None
) -> None:
    client, keys = keyed
    for method, url, body in requests:
        for sent in (bearer(keys[allowed]), {"X-Api-Key": keys[allowed]}, bearer(keys["both"])):
            answer = client.request(method, url, json=body, headers=sent)
            assert answer.status_code == 200, (url, answer.text)
        if forbidden:
            answer = client.request(method, url, json=body, headers=bearer(keys[forbidden]))
            assert answer.status_code == 403, url
            assert f"the key {forbidden} may not do this: it needs the scope {allowed}" in answer.json()["error"]


@pytest.mark.parametrize("url", OPEN)
def test_authorization_leaves_probes_metrics_and_pages_open(keyed: tuple[TestClient, Keys], url: str) -> None:
    assert keyed[0].get(url).status_code == 200


@pytest.mark.parametrize("url", ["/v3", "/livez//", "/x//livez", "/pages", "/v2/health/", "/metrics//", "/LIVEZ"])
def test_authorization_leaves_no_unknown_path_open(keyed: tuple[TestClient, Keys], url: str) -> None:
    assert keyed[0].get(url, follow_redirects=False).status_code == 401


@pytest.mark.parametrize(
    "url",
    [
        "/v1/admin/../admin/refresh",
        "/v1//admin/refresh",
        "/v1/admin%2frefresh",
        "/V1/admin/refresh",
        f"/v2/repository/models/{TASK}%0a/load",
        f"/v1/models/{TASK}/dense/rollback%0a",
        f"/v1/models/{TASK}/dense/unpin%0a",
        f"/v1/models/{TASK}/dense/promote%0a",
        f"/v1/models/{TASK}/dense/unpin%0a/",
        f"/v1/models/{TASK}/dense/unpin%0d%0a",
        f"/v1/compare/{TASK}/disagreements%0a",
        f"/v2/repository/models/{TASK}/load?x=/livez",
        f"/v2/repository/models/{TASK}/load;/livez",
    ],
)
def test_authorization_no_path_spelling_evades_the_scope(keyed: tuple[TestClient, Keys], url: str) -> None:
    client, keys = keyed
    for method in ("POST", "GET"):
        answer = client.request(method, url, headers=bearer(keys["classify"]))
        assert answer.status_code in (403, 404) or (method, answer.status_code) == ("GET", 405)
        assert answer.headers["content-type"] in ("application/problem+json", "application/json")


@pytest.mark.parametrize("attack", sorted(CREDENTIALS.iterdir()), ids=lambda path: path.stem)
@pytest.mark.parametrize("header", [b"authorization", b"x-api-key"])
def test_authorization_hostile_credentials_are_401(keyed: tuple[TestClient, Keys], attack: Path, header: bytes) -> None:
    client, _ = keyed
    answer = client.post(CLASSIFY_URL, json=TEXT, headers=[(header, attack.read_bytes())])
    assert answer.status_code == 401
    assert len(answer.text) < 500


def routes_of(router: APIRouter) -> set[tuple[str, str]]:
    return {(method, route.path) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]


def test_scopes_of_every_route(keyed: tuple[TestClient, Keys]) -> None:
    document = keyed[0].get("/openapi.json").json()
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    free = {path for method, path in found if not required_scopes(method, path)}
    assert free == {"/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"}
    for method, path in routes_of(admin.router):
        assert required_scopes(method, path) == ADMIN, path
    for method, path in found:
        if method == "POST" and path.endswith(("classify", "compare", "predict", "infer")):
            assert required_scopes(method, path) == CLASSIFY


def test_scopes_of_experiments_and_disagreements() -> None:
    assert required_scopes("GET", "/v1/compare/x/disagreements") == ADMIN
    assert required_scopes("GET", "/v1/compare/x") == ANY
    assert required_scopes("POST", "/v1/compare/x") == required_scopes("DELETE", "/v1/compare/x") == ADMIN


@given(st.sampled_from(["POST", "PUT", "DELETE", "PATCH", "BREW"]), st.text())
def test_scopes_no_path_that_changes_anything_is_open(method: str, rest: str) -> None:
    for folder in ("/v1/", "/v2/repository/", "/v2/models/", "/hf/", "/tei/"):
        assert required_scopes(method, folder + rest)


def test_openapi_declares_where_a_key_is_needed(keyed: tuple[TestClient, Keys]) -> None:
    document = keyed[0].get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "x_api_key"}
    paths = document["paths"]
    responses = paths["/v1/models/{task}/classify"]["post"]["responses"]
    assert {"401", "403", "429"} <= set(responses)
    assert list(responses["401"]["content"]) == ["application/problem+json"]
    assert "security" not in paths["/livez"]["get"] and "401" not in paths["/livez"]["get"]["responses"]


def refused_unread(keys: Path, metrics: Metrics, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of a POST whose body must not be asked for."""
    sent: list[Any] = []

    async def never(*_: Any) -> Any:
        raise AssertionError("it was read, or passed on")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CLASSIFY_URL, "headers": headers, "client": ("::1", 1)}
    middleware = AuthorizationMiddleware(never, authorization=RequestAuthorization(Authorizer(Keyring(keys)), metrics))
    asyncio.run(middleware(scope, never, send))
    return int(sent[0]["status"])


def test_authorization_refuses_before_reading_the_body(tmp_path: Path) -> None:
    create(tmp_path / "keys", "ci", frozenset({"classify"}))
    metrics = Metrics()
    assert refused_unread(tmp_path / "keys", metrics, []) == 401
    assert refused_unread(tmp_path / "keys", metrics, [(b"x-api-key", b"none")]) == 401
    assert b"sparserve_requests_denied_total 2.0" in metrics.exposition()


def test_request_log_has_the_keys_name_and_never_the_key(
    keyed: tuple[TestClient, Keys], caplog: pytest.LogCaptureFixture
) -> None:
    client, keys = keyed
    caplog.set_level(logging.DEBUG)
    client.post(CLASSIFY_URL, json=TEXT, headers=bearer(keys["both"]))
    client.post(CLASSIFY_URL, json=TEXT, headers=bearer(keys["both"][:-1]))
    lines = [json.dumps(vars(record), default=str) for record in caplog.records if record.name.startswith("sparserve")]
    assert any('"key": "both"' in line for line in lines)
    assert not any(keys["both"][:-1] in line for line in lines)


def test_rate_limit_of_a_key_is_429(serve: Serve, tmp_path: Path) -> None:
    limited = create(tmp_path / "keys", "limited", frozenset({"classify"}), rate=2)
    free = create(tmp_path / "keys", "free", frozenset({"classify"}))
    client = serve(keys_file=tmp_path / "keys")
    answers = [client.get("/info", headers=bearer(limited)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error_type"] == "Overloaded"
    assert client.get("/info", headers=bearer(free)).status_code == 200
    assert client.get("/livez", headers=bearer(limited)).status_code == 200
    assert "sparserve_requests_rate_limited_total 1.0" in client.get("/metrics").text


def test_rate_limit_of_an_address_without_keys(serve: Serve) -> None:
    client = serve(anonymous_rate=2)
    assert [client.get("/info").status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/livez").status_code == 200
    assert client.get("/metrics").status_code == 200


def test_authorization_metrics_need_key(serve: Serve, tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "prometheus", frozenset({"classify"}))
    client = serve(keys_file=tmp_path / "keys", metrics_need_key=True)
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(("method", "url", "body"), [one for one in NEED_ADMIN if one[0] == "POST"])
def test_authorization_without_keys_forbids_admin(client: TestClient, method: str, url: str, body: Any) -> None:
    answer = client.request(method, url, json=body)
    assert answer.status_code == 403
    assert "sparserve keys create" in answer.json()["error"]


def test_authorization_without_keys_forbids_disagreements(serve: Serve) -> None:
    url = f"/v1/compare/{TASK}/disagreements"
    for found in (url, f"{url}/"):
        assert [serve().request(method, found).status_code for method in ("GET", "HEAD")] == [403, 403]
    assert serve(admin_without_key=True).get(url).status_code == 404  # there is no experiment
    assert serve().get("/v1/admin/overrides").status_code == 200  # versions and names


def test_authorization_admin_without_key_excludes_web_pages(serve: Serve) -> None:
    client = serve(admin_without_key=True, cors_origins=["https://ops.example"])
    assert client.post("/v1/admin/refresh").status_code == 200
    for origin in ("https://evil.example", "null", "http://testserver"):
        assert client.post("/v1/admin/refresh", headers={"Origin": origin}).status_code == 403
    assert client.post("/v1/admin/refresh", headers={"Origin": "https://ops.example"}).status_code == 200
