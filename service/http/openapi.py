"""The OpenAPI document: FastAPI's, with keys, request options and the media types of errors."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from sparserve.service.http.problems import problem_media_type, problem_model
from sparserve.service.http.request_options import HEADER_PARAMETERS, read_request_options
from sparserve.service.security.scopes import METRICS_PATH, required_scopes

# `BodyLimitMiddleware` may answer with these wherever a body is sent.
BODY_STATUSES: Final = (408, 413, 503)
DESCRIPTION = (
    "Text classification over onnxruntime, dense and compressed models side by side. "
    "Every error has the same body, RFC 9457's problem document, with an extra member `error`. "
    "Every answer has the header `X-Request-Id`: the client's own or a new one. "
    "An answer that is to be doubted, such as one to a pair of texts from a model that was trained on single texts, "
    "has the header `X-Sparserve-Warning`."
)


SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x_api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


def install_openapi(
    app: FastAPI, routes: Sequence[BaseRoute], *, root_path: str, needs_keys: bool, metrics_need_key: bool
) -> None:
    """Make the app serve this document, which says where a key is needed; `routes` are those of its routers."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            schema["servers"] = [{"url": root_path or "/"}]
            schema["components"]["securitySchemes"] = SECURITY_SCHEMES
            _declare_headers(routes, schema["paths"])
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    _declare_key(method.upper(), path, operation, needs_keys, metrics_need_key)
                    if method in ("post", "put", "patch"):
                        _add_problems(path, operation, BODY_STATUSES)
                    _declare_problems(operation["responses"], problem_media_type(path, app.state.problem_media_types))
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _declare_headers(routes: Sequence[BaseRoute], paths: dict[str, Any]) -> None:
    """Declare the headers that `read_request_options` reads."""
    for route in routes:
        if isinstance(route, APIRoute) and any(
            one.call is read_request_options for one in route.dependant.dependencies
        ):
            for method in route.methods or ():
                paths[route.path][method.lower()].setdefault("parameters", []).extend(HEADER_PARAMETERS)


def _declare_key(method: str, path: str, operation: dict[str, Any], needs_keys: bool, metrics_need_key: bool) -> None:
    """Declare that an operation needs a key, and its answers without one."""
    if not required_scopes(method, path):
        return
    optional = not needs_keys or (path == METRICS_PATH and not metrics_need_key)
    operation["security"] = [*({name: []} for name in SECURITY_SCHEMES), *([{}] if optional else [])]
    _add_problems(path, operation, (401, 403, 429))


def _add_problems(path: str, operation: dict[str, Any], statuses: tuple[int, ...]) -> None:
    for status in statuses:
        problem = {"schema": {"$ref": f"#/components/schemas/{problem_model(path).__name__}"}}
        answer = {"description": HTTPStatus(status).phrase, "content": {"application/json": problem}}
        operation["responses"].setdefault(str(status), answer)


def _declare_problems(responses: dict[str, Any], media_type: str) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and "application/json" in content:
            content[media_type] = content.pop("application/json")
        if status == "429":
            seconds = {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
            response["headers"] = {"Retry-After": seconds}
