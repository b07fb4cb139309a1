"""Errors over HTTP: one table from exception to status, and one body, application/problem+json (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from sparserve.service import errors
from sparserve.service.errors import ServiceError, nearest

PROBLEM_JSON: Final = "application/problem+json"
# Paths whose clients show the message of an error only if `error` is an object.
OPENAI_PATHS: Final = frozenset({"/v1/moderations"})
MAX_FIELD_PROBLEMS: Final = 20
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
MAX_FIELDS_IN_DETAIL: Final = 5

# An exception that is not listed has the entry of its nearest base class.
STATUSES: Final[Mapping[type[ServiceError], int]] = {
    ServiceError: 500,
    errors.UnreadableRequest: 400,
    errors.EmptyRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.UnknownResource: 404,
    errors.WrongMethod: 405,
    errors.NotAcceptable: 406,
    errors.SlowRequest: 408,
    errors.TooLarge: 413,
    errors.UnsupportedContent: 415,
    errors.InvalidRequest: 422,
    errors.Overloaded: 429,
    errors.InferenceFailed: 500,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}
# The kind of an error in the words of text-embeddings-inference.
ERROR_TYPES: Final[Mapping[type[ServiceError], str]] = {
    ServiceError: "Validation",
    errors.EmptyRequest: "Empty",
    errors.Overloaded: "Overloaded",
    errors.InferenceFailed: "Backend",
    errors.Unavailable: "Unhealthy",
    errors.TooManyBodies: "Overloaded",
    errors.DeadlineExceeded: "Backend",
}
# Errors that have an answer. `RequestLogMiddleware` answers all others with 500.
EXPECTED_ERRORS: Final = (ServiceError, RequestValidationError, HTTPException)
# A part of the body was not read: the server would take it for the next request on this connection.
_CLOSE: Final = {"Connection": "close"}


class FieldProblem(BaseModel):
    """One thing that is wrong in a request."""

    location: str = Field(description="path of the field, such as body.inputs")
    message: str


class Problem(BaseModel):
    """The body of every answer with a status of 400 or more (RFC 9457)."""

    type: str = Field("about:blank", description="always about:blank: the status identifies the problem")
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="the fault and the way out")
    error: str = Field(description="the same as detail, for clients that read this member")
    error_type: str = Field("Validation", description="the kind of error, in text-embeddings-inference's words")
    request_id: str | None = Field(None, description="X-Request-Id of the request")
    errors: list[FieldProblem] = Field([], description=f"the wrong fields, at most {MAX_FIELD_PROBLEMS}")


class OpenAIError(BaseModel):
    """The member `error` as OpenAI's clients read it."""

    message: str = Field(description="the same as detail")
    type: str = Field(description="the same as error_type")
    param: None = None
    code: None = None


class OpenAIProblem(Problem):
    """The same body on the paths of OpenAI's API, with `error` as an object."""

    error: OpenAIError = Field(description="for OpenAI's clients")  # type: ignore[assignment]


class ProblemAnswer(Response):
    """The answer to a request that failed, made in less time than a `Response`.

    `closes` is True if the connection has to close after it.
    """

    def __init__(self, status: int, content: bytes, headers: Mapping[str, str], media_type: str) -> None:
        self.status_code = status
        self.background = None
        self.body = content
        self.closes = "Connection" in headers
        self.raw_headers = [
            *[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            (b"content-length", b"%d" % len(content)),
            (b"content-type", media_type.encode("latin-1")),
        ]


def status_of(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    return nearest(STATUSES, error)


def headers_of(error: ServiceError) -> dict[str, str]:
    """Return the headers that belong to an error's answer."""
    match error:
        case errors.Unauthorized():  # RFC 6750
            return {"WWW-Authenticate": 'Bearer realm="sparserve"' + ', error="invalid_token"' * error.invalid}
        case errors.WrongMethod():
            return {"Allow": error.allow}
        case errors.Overloaded():
            return {"Retry-After": str(error.retry_after_seconds)}
        case errors.TooManyBodies():
            return {"Retry-After": "1", **_CLOSE}
        case errors.SlowRequest() | errors.BodyTooLarge():
            return dict(_CLOSE)
    return {}


def error_response(error: ServiceError, scope: Scope) -> Response:
    """Return the answer to a refused request."""
    return problem_response(
        status_of(error),
        str(error),
        scope,
        headers=headers_of(error),
        error_type=nearest(ERROR_TYPES, error),
    )


def problem_response(
    status: int,
    detail: str,
    scope: Scope | None = None,
    *,
    errors: list[FieldProblem] | None = None,
    headers: Mapping[str, str] | None = None,
    error_type: str | None = None,
) -> Response:
    """Return an answer with the one body that all clients get for an error.

    Its request id and media type are those of the request's `scope`, if there is one.
    """
    kind = error_type or ("Backend" if status >= 500 else "Validation")
    # The fields of `Problem` in their order: to make and to dump one takes as long as the rest of a refusal.
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": PHRASES[status],
        "status": status,
        "detail": detail,
        "error": detail,
        "error_type": kind,
        "request_id": scope.get("state", {}).get("request_id") if scope else None,
        "errors": [error.model_dump() for error in errors or ()],
    }
    if scope and problem_model(scope["path"]) is OpenAIProblem:
        content["error"] = OpenAIError(message=detail, type=kind).model_dump()
    media_type = _media_type_of(scope) if scope else PROBLEM_JSON
    return ProblemAnswer(status, orjson.dumps(content), headers or {}, media_type)


def problem_model(path: str) -> type[Problem]:
    """Return the schema of problems of a path."""
    return OpenAIProblem if path in OPENAI_PATHS else Problem


def problem_media_type(path: str, media_types: Mapping[str, str]) -> str:
    """Return the media type of problems of a path; `media_types` has those of some protocols, by their first segment.

    A protocol declares one if its clients read errors of plain JSON only.
    """
    return media_types.get("/" + path[1:].partition("/")[0], PROBLEM_JSON)


def problems(*statuses: int, model: type[Problem] = Problem) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may answer with these errors."""
    return {status: {"model": model, "description": HTTPStatus(status).phrase} for status in statuses}


def request_id_of(request: Request) -> str | None:
    """Return the request's X-Request-Id; None before it has one."""
    return getattr(request.state, "request_id", None)


def install_error_mapping(app: FastAPI, media_types: Mapping[str, str] | None = None) -> None:
    """Map every expected exception of a route to a problem. `RequestLogMiddleware` handles unexpected ones.

    `media_types` are those of `problem_media_type`.
    """
    app.state.problem_media_types = media_types or {}
    for kind in EXPECTED_ERRORS:
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    return response_to(error, request)


def response_to(error: Exception, request: Request) -> Response:
    """Return the answer to a request whose route raised one of `EXPECTED_ERRORS`."""
    if isinstance(error, ServiceError):
        return error_response(error, request.scope)
    if isinstance(error, RequestValidationError):
        return _validation_error(error, request)
    assert isinstance(error, HTTPException)
    return _http_exception(error, request)


def _validation_error(error: RequestValidationError, request: Request) -> Response:
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        position = faults[0]["loc"][-1]
        detail = f"the body is not JSON: {faults[0]['ctx']['error']} at character {position}"
        return problem_response(400, detail, request.scope)
    # Location and message only: a fault's `input` would repeat what was sent.
    fields = [
        FieldProblem(location=".".join(map(str, fault["loc"])), message=_message(fault))
        for fault in faults[:MAX_FIELD_PROBLEMS]
    ]
    detail = "; ".join(f"{field.location}: {field.message}" for field in fields[:MAX_FIELDS_IN_DETAIL])
    return problem_response(422, detail, request.scope, errors=fields)


def _message(fault: Mapping[str, Any]) -> str:
    if fault["type"] in ("model_type", "model_attributes_type"):  # pydantic would name Python classes
        return "expected a JSON object"
    return str(fault["msg"]).removeprefix("Value error, ")


def _http_exception(error: HTTPException, request: Request) -> Response:
    details = {
        400: "the body cannot be read as JSON: it is not UTF-8, or it is nested too deeply",
        404: f"there is no {request.url.path}; see / and /docs for what exists",
        405: f"{request.url.path} does not support {request.method}; the Allow header lists the methods",
    }
    detail = details.get(error.status_code, error.detail)
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": _allowed_methods(request, (headers or {}).get("Allow", ""))}
    return problem_response(error.status_code, detail, request.scope, headers=headers)


def _allowed_methods(request: Request, first_route: str) -> str:
    """Return all methods of the request's path; FastAPI names only those of the path's first route."""
    template = getattr(request.scope.get("route"), "path", None)
    methods = {method.strip() for method in first_route.split(",")}
    methods |= {method.upper() for method in request.app.openapi()["paths"].get(template, {})}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _media_type_of(scope: Scope) -> str:
    app = scope.get("app")
    return problem_media_type(scope["path"], getattr(app.state, "problem_media_types", {}) if app else {})
