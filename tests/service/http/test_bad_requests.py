"""Wrong requests: each is refused with the right status, a clear message, and the same body for every client."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.service.fixtures import Serve, ServiceOf
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"
ATTACKS = Path(__file__).parents[2] / "attacks" / "requests"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(module_client: TestClient) -> TestClient:
    return module_client


def check_problem(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["error"] == problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    for word in words:
        assert word in problem["detail"]


@pytest.mark.parametrize("attack", sorted(ATTACKS.iterdir()), ids=lambda path: path.stem)
def test_bad_request_hostile_files(client: TestClient, attack: Path) -> None:
    status = int(attack.name.partition("-")[0])
    answer = client.post(URL, content=attack.read_bytes(), headers=JSON)
    assert answer.status_code == status, answer.text
    if status != 200:
        check_problem(answer, status)
        assert len(answer.text) < 2000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "text_pair", "x"]), inner),
    max_leaves=10,
)
OPTIONS = st.fixed_dictionaries({"inputs": VALUES}, optional={"top_k": VALUES, "truncate": VALUES, "x": VALUES})


@settings(deadline=None)
@given(OPTIONS | VALUES)
def test_bad_request_no_json_is_a_server_error(module_client: TestClient, body: object) -> None:
    answer = module_client.post(URL, content=json.dumps(body).encode(), headers=JSON)
    assert answer.status_code in (200, 422), answer.text


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bad_request_no_bytes_are_a_server_error(module_client: TestClient, body: bytes) -> None:
    # Hypothesis also tries what the sources have as literals, and some of that is a request.
    assert module_client.post(URL, content=body, headers=JSON).status_code in (200, 400, 422)


@pytest.mark.parametrize(
    "body, words",
    [
        ({}, "inputs"),
        ([], "body"),
        ("good", "body"),
        ({"inputs": []}, "the list is empty"),
        ({"inputs": None}, "not null"),
        ({"inputs": 1}, "not a number"),
        ({"inputs": True}, "not a boolean"),
        ({"inputs": ["good", 1]}, "item 1 is a number"),
        ({"inputs": ["good", ["a", "b"]]}, "item 1 is a list"),
        ({"inputs": [{}]}, "item 0 has no text"),
        ({"inputs": [{"text": 1}]}, "text of item 0 is a number"),
        ({"inputs": [{"text": None}]}, "text of item 0 is null"),
        ({"inputs": [{"text": "a", "text_pair": 3}]}, "text_pair of item 0"),
        ({"inputs": [{"text": "a", "label": "b"}]}, "1 fields besides"),
        ({"inputs": "good", "top_k": 0}, "top_k"),
        ({"inputs": "good", "top_k": "2"}, "top_k"),
        ({"inputs": "good", "top_k": 1.5}, "top_k"),
        ({"inputs": "good", "function_to_apply": "tanh"}, "function_to_apply"),
        ({"inputs": "good", "truncate": "yes"}, "truncate"),
        ({"inputs": "good", "parameters": {}}, "parameters"),
        ({"inputs": {"text": {"text": {"text": "a"}}}}, "text of item 0 is an object"),
    ],
)
def test_bad_request_wrong_fields_are_422(client: TestClient, body: object, words: str) -> None:
    check_problem(client.post(URL, json=body), 422, words)


@pytest.mark.parametrize("body", [b"", b"null"])
def test_bad_request_empty_body_is_422(client: TestClient, body: bytes) -> None:
    check_problem(client.post(URL, content=body, headers=JSON), 422, "body")


@pytest.mark.parametrize("escaped", [r"\ud800", r"a\udc00b", r"\ud83d \ude00"])
@pytest.mark.parametrize("field", ['"%s"', '["a", "%s"]', '{"text": "a", "text_pair": "%s"}'])
def test_bad_request_lone_surrogates_are_422(client: TestClient, escaped: str, field: str) -> None:
    body = '{"inputs": ' + field % escaped + "}"
    check_problem(client.post(URL, content=body.encode(), headers=JSON), 422, "lone surrogate")


def test_bad_request_accepts_an_escaped_surrogate_pair(client: TestClient) -> None:
    assert client.post(URL, content=rb'{"inputs": "\ud83d\ude00"}', headers=JSON).status_code == 200


def test_bad_request_ten_thousand_items_are_413(client: TestClient) -> None:
    check_problem(client.post(URL, json={"inputs": ["good"] * 10_000}), 413, "10000 inputs", "the limit is 256")


@pytest.mark.parametrize(
    ("url", "inputs"),
    [
        (URL, ["a"] * 300 + [1]),
        (f"/v1/models/{TASK}/compare", ["a"] * 300 + [1]),
        (f"/hf/{TASK}", ["a"] * 300 + [1]),
        (f"/tei/{TASK}/predict", [["a"]] * 300 + [[1]]),
        ("/predict", [["a"]] * 300 + [[1]]),
    ],
)
def test_bad_request_counts_inputs_before_validating_them(client: TestClient, url: str, inputs: list[object]) -> None:
    check_problem(client.post(url, json={"inputs": inputs}), 413, "301 inputs", "the limit is 256")


def test_bad_request_many_wrong_items_make_one_message(client: TestClient) -> None:
    answer = client.post(URL, json={"inputs": [1] * 200})
    check_problem(answer, 422)
    assert len(answer.json()["errors"]) == 1


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (URL, {"inputs": "good"}),
        (f"/v1/models/{TASK}/compare", {"inputs": "good"}),
        (f"/hf/{TASK}", {"inputs": "good"}),
        (f"/hf/{TASK}", {"inputs": "good", "parameters": {}}),
        (f"/tei/{TASK}/predict", {"inputs": "good"}),
    ],
)
def test_bad_request_unknown_fields_make_one_short_message(
    client: TestClient, url: str, body: dict[str, object]
) -> None:
    unknown: dict[str, object] = {name * 1000: 0 for name in map(str, range(200))}
    sent = {**body, "parameters": unknown} if "parameters" in body else {**body, **unknown}
    answer = client.post(url, json=sent)
    check_problem(answer, 422, f"'{'0' * 40}', '{'1' * 40}', '{'2' * 40}'; the fields are ")
    assert len(answer.json()["errors"]) == 1 and len(answer.content) < 1500


def test_bad_request_unknown_field_is_escaped(client: TestClient) -> None:
    body = b'{"inputs": "good", "\\ud800": 1}'
    check_problem(client.post(URL, content=body, headers=JSON), 422, r"'\ud800'; the fields are overlong, stride")


def test_bad_request_long_text_is_413_and_names_the_item(client: TestClient) -> None:
    check_problem(client.post(URL, json={"inputs": ["good", "a" * 100_001]}), 413, "item 1 has 100001 characters")


def test_bad_request_pair_counts_as_one_input(serve: Serve) -> None:
    client = serve(max_characters=10)
    assert client.post(URL, json={"inputs": {"text": "a" * 5, "text_pair": "b" * 5}}).status_code == 200
    check_problem(client.post(URL, json={"inputs": {"text": "a" * 5, "text_pair": "b" * 6}}), 413)


def test_bad_request_declared_length_over_the_limit_is_413(serve: Serve) -> None:
    check_problem(serve(max_body_bytes=1000).post(URL, json={"inputs": "a" * 1000}), 413, "1000 bytes")


def test_bad_request_chunked_body_over_the_limit_is_413(serve: Serve) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"inputs": "'
        for _ in range(100):
            yield b"a" * 100
        yield b'"}'

    check_problem(serve(max_body_bytes=1000).post(URL, content=chunks(), headers=JSON), 413, "1000 bytes")


def test_bad_request_accepts_a_chunked_body(client: TestClient) -> None:
    answer = client.post(URL, content=iter([b'{"inputs"', b': "good"}']), headers=JSON)
    assert answer.status_code == 200


@pytest.mark.parametrize("declared", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_bad_request_other_content_type_is_415(client: TestClient, declared: str) -> None:
    answer = client.post(URL, content=b'{"inputs": "good"}', headers={"Content-Type": declared})
    check_problem(answer, 415, "application/json")


@pytest.mark.parametrize("declared", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"])
def test_bad_request_accepts_json_media_types(client: TestClient, declared: str) -> None:
    answer = client.post(URL, content=b'{"inputs": "good"}', headers={"Content-Type": declared})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "url", ["/v1/models/none/classify", f"/v1/models/{TASK}/none/classify", "/v1/models/none/compare"]
)
def test_bad_request_unknown_model_is_404_and_lists_models(client: TestClient, url: str) -> None:
    answer = client.post(url, json={"inputs": "good"})
    check_problem(answer, 404, "'none'")
    assert TASK in answer.json()["detail"]


@pytest.mark.parametrize("task", ["..", "%2e%2e", "..%2f..%2fetc", "%00", "A", "a b", "😀"])
def test_bad_request_impossible_names_are_404(client: TestClient, task: str) -> None:
    check_problem(client.post(f"/v1/models/{task}/dense/classify", json={"inputs": "good"}), 404)
    check_problem(client.get(f"/v1/reports/{task}"), 404)


def test_bad_request_unknown_path_is_404(client: TestClient) -> None:
    check_problem(client.get("/v3"), 404, "/v3")


@pytest.mark.parametrize(
    "method, url, allow",
    [
        ("GET", URL, "POST"),
        ("GET", f"/v1/models/{TASK}/compare", "POST"),
        ("GET", f"/v1/models/{TASK}/dense/classify", "POST"),
        ("DELETE", URL, "POST"),
        ("POST", "/livez", "GET"),
        ("PUT", "/v1/models", "GET"),
        ("POST", "/v1/reports/x", "GET"),
        ("POST", "/", "GET"),
    ],
)
def test_bad_request_wrong_method_is_405_with_allow(client: TestClient, method: str, url: str, allow: str) -> None:
    answer = client.request(method, url)
    check_problem(answer, 405)
    assert allow in answer.headers["allow"]


def test_request_id_is_returned(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/nope", headers={"X-Request-Id": "abc-2"}).json()["request_id"] == "abc-2"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "line\tbreak", '"}'])
def test_request_id_that_is_invalid_is_replaced(client: TestClient, sent: str) -> None:
    made = client.get("/livez", headers={"X-Request-Id": sent}).headers["x-request-id"]
    assert made != sent and len(made) == 32


def test_unexpected_error_is_500_without_internals(
    client: TestClient, service_of: ServiceOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("".join(["se", "cret"]))

    monkeypatch.setattr(service_of(client).catalog, "engine", broken)
    answer = client.post(URL, json={"inputs": "good"})
    check_problem(answer, 500, answer.headers["x-request-id"])
    assert "secret" not in answer.text and "RuntimeError" not in answer.text
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text


def test_request_log_has_no_text(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for body in ({"inputs": "UNIQUEWORD"}, {"inputs": ["UNIQUEWORD", 1]}, {"inputs": "a", "UNIQUEWORD": 1}):
        client.post(URL, json=body)
    client.post(URL, content=b'{"inputs": "UNIQUEWORD', headers=JSON)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("sparserve")]
    assert ours and not any("UNIQUEWORD" in message for message in ours)


def test_bad_request_does_not_repeat_the_text(client: TestClient) -> None:
    for body in ({"inputs": "UNIQUEWORD", "top_k": 0}, {"inputs": ["UNIQUEWORD", 1]}, {"inputs": [["UNIQUEWORD"]]}):
        assert "UNIQUEWORD" not in client.post(URL, content=json.dumps(body).encode(), headers=JSON).text
