"""The OpenAPI document, with errors declared as what they are: application/problem+json."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.access import scopes_for
from service.errors import PROBLEM_JSON

DESCRIPTION = (
    "Text classification over onnxruntime, dense and compressed models side by side. "
    "Every error has one body, RFC 9457's problem document, with an extra member `error`. "
    "Every answer carries `X-Request-Id`, the one that was sent or a new one."
)


SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x_api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


def describe(app: FastAPI) -> None:
    """Let the app answer with this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            schema["components"]["securitySchemes"] = SECURITY_SCHEMES
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    _declare_key(method.upper(), path, operation)
                    _declare_problems(operation["responses"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _declare_key(method: str, path: str, operation: dict[str, Any]) -> None:
    """Say that an operation may ask for a key, and what it answers without."""
    if not scopes_for(method, path):
        return
    # The empty one: a service without keys asks for none.
    operation["security"] = [*({name: []} for name in SECURITY_SCHEMES), {}]
    for status in (401, 403, 429):
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        answer = {"description": HTTPStatus(status).phrase, "content": {"application/json": problem}}
        operation["responses"].setdefault(str(status), answer)


def _declare_problems(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and "application/json" in content:
            content[PROBLEM_JSON] = content.pop("application/json")
        if status == "429":
            seconds = {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
            response["headers"] = {"Retry-After": seconds}
