"""The one mapping of exceptions to HTTP: the service's own, the framework's, and those of bodies that are not valid."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from sparserve.service.errors import (
    MOST_FIELDS,
    FieldProblem,
    ServiceError,
    error_response,
    problem_response,
    request_id_of,
)
from sparserve.service.http.middleware.path_normalization import allowed_methods


def install_error_mapping(app: FastAPI) -> None:
    """Map every exception that a route may raise to a problem; unexpected ones are `observation`'s to catch."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(error, request_id_of(request))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        position = found[0]["loc"][-1]
        detail = f"the body is not JSON: {found[0]['ctx']['error']} at character {position}"
        return problem_response(400, detail, request_id=request_id_of(request))
    # Only place and message: an item's `input` would repeat what was sent.
    fields = [
        FieldProblem(location=".".join(map(str, item["loc"])), message=_message(item)) for item in found[:MOST_FIELDS]
    ]
    detail = "; ".join(f"{field.location}: {field.message}" for field in fields[:5])
    return problem_response(422, detail, request_id=request_id_of(request), errors=fields)


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] in ("model_type", "model_attributes_type"):  # pydantic would speak of its own classes
        return "expected a JSON object"
    return str(item["msg"]).removeprefix("Value error, ")


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        400: "the body cannot be read as JSON: it is not UTF-8, or it is nested too deeply",
        404: f"there is no {request.url.path}; / and /docs say what there is",
        405: f"{request.method} is not for {request.url.path}; the Allow header says what is",
    }
    detail = details.get(error.status_code, error.detail)
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": allowed_methods(request, (headers or {}).get("Allow", ""))}
    return problem_response(error.status_code, detail, request_id=request_id_of(request), headers=headers)
