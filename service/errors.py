"""The exceptions of the service, and the one body that tells of them: application/problem+json (RFC 9457).

    ServiceError                 status
    ├── UnreadableRequest        400   not JSON, not UTF-8, nested too deeply
    ├── EmptyRequest             400   nothing to classify, where a protocol wants it told apart
    ├── Unauthorized             401   no key, or one that is not valid, with WWW-Authenticate
    ├── Forbidden                403   a key without the scope, or a part of the API that is closed
    ├── UnknownResource          404   a task, variant, report or path that does not exist
    ├── WrongMethod              405   with Allow
    ├── NotAcceptable            406   a representation that does not exist
    ├── SlowRequest              408   a body that did not come in time
    ├── TooLarge                 413   bytes, items or characters over a limit
    │   └── BodyTooLarge         413   a body of which a part was not read
    ├── UnsupportedContent       415   a body that does not say that it is JSON
    ├── InvalidRequest           422   JSON that does not say what is needed
    │   └── TooManyTokens        422   a text that is not to be truncated
    ├── Overloaded               429   with Retry-After
    │   └── RateLimited          429   more requests than a key or an address may send
    ├── InferenceFailed          500   a graph that answered with numbers that are not finite
    ├── Unavailable              503   models loading, refused, or the service shutting down
    │   └── TooManyBodies        503   more bytes of all bodies together than may be held, with Retry-After
    └── DeadlineExceeded         504   the answer would have come after the client's own limit

Every detail names the thing that is wrong and the way out; none repeats a text that was sent.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"
MOST_FIELDS: Final = 20


class ServiceError(Exception):
    """Base of everything the service refuses on purpose; its text is told to the client."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    error_type = "Validation"  # in the words of text-embeddings-inference

    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer."""
        return {}


class UnreadableRequest(ServiceError):
    """The body is not JSON in UTF-8."""

    status = HTTPStatus.BAD_REQUEST


class EmptyRequest(ServiceError):
    """There is nothing to classify."""

    status = HTTPStatus.BAD_REQUEST
    error_type = "Empty"


class Unauthorized(ServiceError):
    """No key, or one that is not valid."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        self.invalid = invalid

    def headers(self) -> dict[str, str]:
        """`WWW-Authenticate`, as RFC 6750 has it."""
        error = ', error="invalid_token"' if self.invalid else ""
        return {"WWW-Authenticate": f'Bearer realm="sparserve"{error}'}


class Forbidden(ServiceError):
    """The key lacks the scope, or nobody may without one."""

    status = HTTPStatus.FORBIDDEN


class UnknownResource(ServiceError):
    """There is no such task, variant, report or path."""

    status = HTTPStatus.NOT_FOUND


class WrongMethod(ServiceError):
    """The path exists, but not with this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow

    def headers(self) -> dict[str, str]:
        """`Allow` with the methods that there are."""
        return {"Allow": self.allow}


class NotAcceptable(ServiceError):
    """No representation that the client accepts."""

    status = HTTPStatus.NOT_ACCEPTABLE


class SlowRequest(ServiceError):
    """The body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT

    def headers(self) -> dict[str, str]:
        """What comes later on this connection would be taken for another request."""
        return {"Connection": "close"}


class TooLarge(ServiceError):
    """More bytes, items or characters than a limit."""

    status = HTTPStatus(413)


class BodyTooLarge(TooLarge):
    """More bytes than are read."""

    def headers(self) -> dict[str, str]:
        """What comes later on this connection would be taken for another request."""
        return {"Connection": "close"}


class UnsupportedContent(ServiceError):
    """The body is not declared as JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class InvalidRequest(ServiceError):
    """The body is JSON, but not what is needed."""

    status = HTTPStatus(422)


class TooManyTokens(InvalidRequest):
    """A text has more tokens than the model takes, and is not to be truncated."""


class Overloaded(ServiceError):
    """Every place in the queue is taken."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    error_type = "Overloaded"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds

    def headers(self) -> dict[str, str]:
        """`Retry-After` in seconds."""
        return {"Retry-After": str(self.retry_after_seconds)}


class RateLimited(Overloaded):
    """A key or an address has sent more requests than it may."""


class InferenceFailed(ServiceError):
    """The graph did not compute an answer."""

    error_type = "Backend"


class Unavailable(ServiceError):
    """The model cannot answer now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    error_type = "Unhealthy"


class TooManyBodies(Unavailable):
    """The bodies of all requests together have more bytes than are held at once."""

    error_type = "Overloaded"

    def headers(self) -> dict[str, str]:
        """`Retry-After` in seconds; and what comes later on this connection would be taken for another request."""
        return {"Retry-After": "1", "Connection": "close"}


class DeadlineExceeded(ServiceError):
    """The time that the client gave for the answer is over."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    error_type = "Backend"


class FieldProblem(BaseModel):
    """One thing that is wrong in a request."""

    location: str = Field(description="where, as in body.inputs")
    message: str


class Problem(BaseModel):
    """The body of every answer with a status of 400 or more (RFC 9457)."""

    type: str = Field("about:blank", description="the status says it all")
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what is wrong and the way out")
    error: str = Field(description="the same as detail, for clients that look for it here")
    error_type: str = Field("Validation", description="the kind of error, in text-embeddings-inference's words")
    request_id: str | None = Field(None, description="X-Request-Id of the request")
    errors: list[FieldProblem] = Field([], description=f"the fields that are wrong, {MOST_FIELDS} at most")


def problem_response(
    status: int,
    detail: str,
    *,
    request_id: str | None = None,
    errors: list[FieldProblem] | None = None,
    headers: Mapping[str, str] | None = None,
    error_type: str | None = None,
) -> Response:
    """The one body that all clients get for an error."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        error=detail,
        error_type=error_type or ("Backend" if status >= 500 else "Validation"),
        request_id=request_id,
        errors=errors or [],
    )
    return Response(orjson.dumps(problem.model_dump()), status, headers, media_type=PROBLEM_JSON)


def error_response(error: ServiceError, request_id: str | None) -> Response:
    """The answer to a request that is refused."""
    return problem_response(
        error.status, str(error), request_id=request_id, headers=error.headers(), error_type=error.error_type
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these errors."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def request_id_of(request: Request) -> str | None:
    """The request's X-Request-Id, once it has one."""
    return getattr(request.state, "request_id", None)
