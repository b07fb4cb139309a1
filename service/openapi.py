"""The OpenAPI document, with errors declared as what they are: application/problem+json."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.errors import PROBLEM_JSON

DESCRIPTION = (
    "Text classification over onnxruntime, dense and compressed models side by side. "
    "Every error has one body, RFC 9457's problem document, with an extra member `error`. "
    "Every answer carries `X-Request-Id`, the one that was sent or a new one."
)


def describe(app: FastAPI) -> None:
    """Let the app answer with this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            for path in schema["paths"].values():
                for operation in path.values():
                    _declare_problems(operation["responses"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _declare_problems(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and "application/json" in content:
            content[PROBLEM_JSON] = content.pop("application/json")
        if status == "429":
            seconds = {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
            response["headers"] = {"Retry-After": seconds}
