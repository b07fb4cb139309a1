import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.testclient import TestClient
from starlette.responses import Response

from sparserve.service.api.schemas import ClassifyRequest
from sparserve.service.core import ServingCore
from sparserve.service.drain import Drain
from sparserve.service.errors import InvalidRequest
from sparserve.service.http.json_route import DirectRoute, JsonRoute
from sparserve.service.http.problems import install_error_mapping
from sparserve.service.settings import Settings
from sparserve.service.types import Prediction

JSON = {"Content-Type": "application/json"}
BODIES = [
    b"", b"null", b"[]", b"{}", b'{"inputs": "a"}', b'{"inputs": ["a", {"text": "b", "text_pair": "c"}], "top_k": 2}',
    b'{"inputs": "a", "top_k": 0, "truncate": "no", "more": 1}', b'{"inputs": [1]}', b'{"inputs": "a"', b"\xff\xfe",
    b'{"inputs": "\\ud800"}', b"[" * 100_000, b"1" * 10_000, b'{"inputs": "a", "top_k": NaN}', b'{"inputs": "a"} {}',
]  # fmt: skip


async def _name(request: Request) -> str:
    if "X-Wrong" in request.headers:
        raise InvalidRequest("X-Wrong: do not send it")
    return request.headers.get("X-Name", "nobody")


Name = Annotated[str, Depends(_name)]


def client(route_class: type[JsonRoute]) -> TestClient:
    app, router = FastAPI(), APIRouter(route_class=route_class)
    app.state.service = ServingCore(Settings(threads=1, max_items=3), Drain())

    @router.post("/{task}/of/{variant}")
    async def classify(task: str, variant: str, body: ClassifyRequest, name: Name) -> list[Prediction]:
        return [
            Prediction(label=f"{task} {variant} {name} {item.text} {body.top_k}", score=0.5) for item in body.inputs
        ]

    @router.get("/{task}/path")
    async def path(task: str, request: Request) -> dict[str, Any]:
        return {"task": task, "path": request.url.path}

    @router.get("/teapot", response_model=Prediction)
    async def teapot() -> Response:
        return Response("short and stout", 418)

    app.include_router(router)
    install_error_mapping(app)
    return TestClient(app)


@pytest.fixture(scope="module")
def both() -> tuple[TestClient, TestClient]:
    return client(DirectRoute), client(JsonRoute)


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("headers", [{}, {"X-Name": "somebody"}, {"X-Wrong": "1"}], ids=["none", "name", "wrong"])
def test_direct_route_answers_like_fastapi(
    both: tuple[TestClient, TestClient], body: bytes, headers: dict[str, str]
) -> None:
    direct, slow = (each.post("/a%20task/of/dense", content=body, headers=JSON | headers) for each in both)
    if "X-Wrong" in headers and slow.status_code == 422:
        # Of a wrong header and a wrong body either may be told first.
        assert direct.status_code == 422
        return
    assert (direct.status_code, direct.json()) == (slow.status_code, slow.json())


def test_direct_route_counts_inputs_before_validating_them(both: tuple[TestClient, TestClient]) -> None:
    direct, _ = both
    inputs: list[Any]
    for inputs in (["a"] * 4, [1] * 4, [{}] * 4):
        answer = direct.post("/a/of/b", json={"inputs": inputs})
        assert (answer.status_code, answer.json()["detail"][:44]) == (
            413,
            "the request has 4 inputs, the limit is 3: se",
        )
    assert direct.post("/a/of/b", json={"inputs": ["a"] * 3}).status_code == 200


def test_direct_route_passes_path_request_and_responses(both: tuple[TestClient, TestClient]) -> None:
    for each in both:
        assert each.get("/a/path").json() == {"task": "a", "path": "/a/path"}
        assert (each.get("/teapot").status_code, each.get("/teapot").text) == (418, "short and stout")


@pytest.mark.parametrize("declared", [None, "text/plain", "application/jsonp", "multipart/form-data"])
def test_json_route_requires_a_json_content_type(both: tuple[TestClient, TestClient], declared: str | None) -> None:
    body = json.dumps({"inputs": "a"})
    headers = {} if declared is None else {"Content-Type": declared}
    assert [each.post("/a/of/b", content=body, headers=headers).status_code for each in both] == [415, 415]
    for named in ("application/json; charset=utf-8", "Application/JSON", "application/problem+json"):
        headers = {"Content-Type": named}
        assert [each.post("/a/of/b", content=body, headers=headers).status_code for each in both] == [200, 200]


def test_direct_route_has_fastapis_openapi_document(both: tuple[TestClient, TestClient]) -> None:
    direct, slow = (each.get("/openapi.json").json() for each in both)
    assert direct == slow


def test_direct_route_refuses_unsupported_parameters() -> None:
    router = APIRouter(route_class=DirectRoute)

    async def by_query(task: str, verbose: bool) -> str:
        return f"{task} {verbose}"

    with pytest.raises(TypeError, match="/tasks: a DirectRoute"):
        router.add_api_route("/tasks", by_query)
