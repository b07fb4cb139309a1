"""The OpenAPI document, with errors declared as what they are: application/problem+json."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from sparserve.service.api.open_inference_codec import media_type_of_problems
from sparserve.service.http.middleware.authorization import METRICS, scopes_for
from sparserve.service.http.request_options import HEADER_PARAMETERS, read_request_options
from sparserve.service.settings import Settings

# What `bodies` may answer wherever a body is sent.
BODY_STATUSES: Final = (408, 413, 503)
DESCRIPTION = (
    "Text classification over onnxruntime, dense and compressed models side by side. "
    "Every error has one body, RFC 9457's problem document, with an extra member `error`. "
    "Every answer carries `X-Request-Id`, the one that was sent or a new one."
)


SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x_api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


def describe(app: FastAPI, settings: Settings) -> None:
    """Let the app answer with this document, which says where the settings ask for a key."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            schema["components"]["securitySchemes"] = SECURITY_SCHEMES
            _declare_headers(app, schema["paths"])
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    _declare_key(method.upper(), path, operation, settings)
                    if method in ("post", "put", "patch"):
                        _add_problems(operation, BODY_STATUSES)
                    _declare_problems(path, operation["responses"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _declare_headers(app: FastAPI, paths: dict[str, Any]) -> None:
    """Declare the headers that `read_request_options` reads."""
    for route in app.routes:
        if isinstance(route, APIRoute) and any(
            one.call is read_request_options for one in route.dependant.dependencies
        ):
            for method in route.methods or ():
                paths[route.path][method.lower()].setdefault("parameters", []).extend(HEADER_PARAMETERS)


def _declare_key(method: str, path: str, operation: dict[str, Any], settings: Settings) -> None:
    """Say that an operation asks for a key, and what it answers without."""
    if not scopes_for(method, path):
        return
    free = settings.keys_file is None or (path == METRICS and not settings.metrics_need_key)
    operation["security"] = [*({name: []} for name in SECURITY_SCHEMES), *([{}] if free else [])]
    _add_problems(operation, (401, 403, 429))


def _add_problems(operation: dict[str, Any], statuses: tuple[int, ...]) -> None:
    for status in statuses:
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        answer = {"description": HTTPStatus(status).phrase, "content": {"application/json": problem}}
        operation["responses"].setdefault(str(status), answer)


def _declare_problems(path: str, responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and "application/json" in content:
            content[media_type_of_problems(path)] = content.pop("application/json")
        if status == "429":
            seconds = {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
            response["headers"] = {"Retry-After": seconds}
