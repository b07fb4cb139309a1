"""The exceptions of the service. Each protocol maps them to its own statuses; `http/problems.py` has HTTP's table.

    ServiceError
    ├── UnreadableRequest     not JSON, not UTF-8, or nested too deeply
    ├── EmptyRequest          nothing to classify, for a protocol that distinguishes this case
    ├── Unauthorized          no key, or an invalid one
    ├── Forbidden             a key without the required scope, or a closed part of the API
    ├── UnknownResource       a task, variant, report or path that does not exist
    ├── WrongMethod           a method that the resource does not support
    ├── NotAcceptable         a representation that does not exist
    ├── SlowRequest           a body that did not arrive in time
    ├── TooLarge              bytes, items or characters over a limit
    │   └── BodyTooLarge      a body of which a part was not read
    ├── UnsupportedContent    a body that is not declared as JSON
    ├── InvalidRequest        JSON with missing or wrong fields
    │   └── TooManyTokens     a text over the model's length that must not be truncated
    ├── Overloaded            a full queue; try again after `retry_after_seconds`
    │   └── RateLimited       more requests than a key or an address may send
    ├── InferenceFailed       a graph that failed or returned numbers that are not finite
    ├── Unavailable           models that are loading, refused or unloaded, or a service that is shutting down
    │   └── TooManyBodies     more bytes of request bodies than the service holds at a time
    └── DeadlineExceeded      no answer before the deadline

Every message names the thing that is wrong and the way out. No message repeats a text that was sent.
"""

from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


class ServiceError(Exception):
    """Base class of all errors that the service raises on purpose; clients see the message."""


class UnreadableRequest(ServiceError):
    """The body is not JSON in UTF-8."""


class EmptyRequest(ServiceError):
    """There is nothing to classify."""


class Unauthorized(ServiceError):
    """The request has no key, or an invalid one (`invalid`)."""

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        self.invalid = invalid


class Forbidden(ServiceError):
    """The key lacks the scope, or the operation needs a key and there are none."""


class UnknownResource(ServiceError):
    """There is no such task, variant, report or path."""


class WrongMethod(ServiceError):
    """The resource exists, but only for the methods in `allow`."""

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class NotAcceptable(ServiceError):
    """There is no representation that the client accepts."""


class SlowRequest(ServiceError):
    """The body did not arrive in time."""


class TooLarge(ServiceError):
    """The request has more bytes, items or characters than a limit allows."""


class BodyTooLarge(TooLarge):
    """The body has more bytes than the service reads."""


class UnsupportedContent(ServiceError):
    """The body is not declared as JSON, or has an unknown encoding."""


class InvalidRequest(ServiceError):
    """The body is JSON, but its fields are missing or wrong."""


class TooManyTokens(InvalidRequest):
    """A text has more tokens than the model takes and must not be truncated."""


class Overloaded(ServiceError):
    """The queue is full."""

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(Overloaded):
    """A key or an address has sent more requests than it may."""


class InferenceFailed(ServiceError):
    """The graph failed to compute an answer."""


class Unavailable(ServiceError):
    """The model cannot answer now."""


class TooManyBodies(Unavailable):
    """The bodies of all requests together have more bytes than the service holds at a time."""


class DeadlineExceeded(ServiceError):
    """The request's deadline has passed."""


def nearest(table: Mapping[type[ServiceError], _Value], error: ServiceError) -> _Value:
    """Return a table's entry for the class of an error, or for the nearest of its base classes."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)
