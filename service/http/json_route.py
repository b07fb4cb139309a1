"""Route classes: for JSON bodies, whose media type they check, and without FastAPI's overhead."""

import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest, UnsupportedContent
from sparserve.service.http.dependencies import serving_core
from sparserve.service.http.headers import first_values, text_of
from sparserve.service.http.json_body import parse_json
from sparserve.service.http.middleware.disconnect import cancel_on_disconnect
from sparserve.service.http.request_options import read_request_options, request_options
from sparserve.service.types import Timings

# From a request and the content of its body to the answer.
BodyHandler = Callable[[Request, bytes], Awaitable[Response]]
_Dependency = Callable[[Request], Awaitable[Any]]


class JsonRoute(APIRoute):
    """Route whose body must be declared as JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, after the check."""
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            check_content_type(request)
            return await handler(request)

        return checked


class DirectRoute(JsonRoute):
    """Route that calls its endpoint directly; the request is cancelled once its client disconnects.

    FastAPI would solve the tree of dependencies and validate the answer for every request, which takes a large part of
    the time of a short text. The OpenAPI document of the route is the same. An endpoint's parameters are those of the
    path, the body, and dependencies on the request alone; it returns a `Response` or an instance of its response model.
    Bodies are validated with the settings' `max_items` as context, so that too many inputs are refused before any of
    them is validated. A request with options, and so for inference, is refused before its body is parsed if too much
    waits already.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that reads the body and calls the endpoint; raises as `get_body_handler`."""
        handle = self.get_body_handler()

        async def direct(request: Request) -> Response:
            content = await request.body()
            cancel_on_disconnect(request)
            return await handle(request, content)

        return direct

    def get_body_handler(self) -> BodyHandler:
        """Return a handler that calls the endpoint for a request whose body has been read.

        Raises:
            TypeError: the endpoint has parameters of another kind, such as a query parameter.
        """
        endpoint: Callable[..., Awaitable[Any]] = self.endpoint
        dependant = self.dependant
        for each in (dependant, *dependant.dependencies):
            if each.query_params or each.header_params or each.cookie_params or each.response_param_name:
                raise TypeError(
                    f"{self.path}: a DirectRoute supports parameters of the path, a body and dependencies only"
                )
        dependencies = [(cast(str, each.name), cast(_Dependency, each.call)) for each in dependant.dependencies]
        body = (
            TypeAdapter[Any](dependant.body_params[0].field_info.annotation or Any) if dependant.body_params else None
        )
        body_name = dependant.body_params[0].name if dependant.body_params else ""
        answers = TypeAdapter(self.response_model)
        calls = [call for _, call in dependencies]
        infers = read_request_options in calls
        needs_service = body is not None or infers or serving_core in calls

        async def handle(request: Request, content: bytes) -> Response:
            service: ServingCore = request.scope["app"].state.service if needs_service else cast(Any, None)
            if first_values(request.scope).get(b"content-type") != b"application/json":
                self.check_media_type(request)
            if infers:
                check_load(service, request.scope, len(content))
            values: dict[str, Any] = dict(request.path_params)
            if body is None:
                request.state.content = content
            else:
                values[body_name] = read_body(content, body, service.settings.max_items)
            if dependant.request_param_name:
                values[dependant.request_param_name] = request
            for name, call in dependencies:  # the usual ones without a coroutine
                if call is serving_core:
                    values[name] = service
                elif call is read_request_options:
                    values[name] = request_options(request.scope, service.settings.request_timeout_seconds)
                else:
                    values[name] = await call(request)
            answer = await endpoint(**values)
            if isinstance(answer, Response):
                return answer
            return JsonAnswer(answers.dump_json(answer))

        return handle

    def check_media_type(self, request: Request) -> None:
        """Refuse a body that is not declared as JSON.

        Raises:
            UnsupportedContent: as in `check_content_type`.
        """
        check_content_type(request)


class BinaryRoute(DirectRoute):
    """DirectRoute for bodies of any media type; dependencies read `request.state.content`."""

    def check_media_type(self, request: Request) -> None:
        """Accept any media type, also none."""


class JsonAnswer(Response):
    """An answer of status 200 with JSON, made in less time than a `Response`.

    It has the headers Content-Length and Content-Type, and, in milliseconds, Server-Timing if there are `timings`.
    """

    def __init__(self, content: bytes, timings: Timings | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.body = content
        self.raw_headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
        if timings is not None:
            stages = (
                f"queue;dur={1000 * timings.queue_seconds:.3f}, tokenize;dur={1000 * timings.tokenize_seconds:.3f}, "
                f"inference;dur={1000 * timings.inference_seconds:.3f}, total;dur={1000 * timings.total_seconds:.3f}"
            )
            self.raw_headers.insert(0, (b"server-timing", stages.encode()))


def check_content_type(request: Request) -> None:
    """Refuse a body that is not declared as JSON.

    Raises:
        UnsupportedContent: the Content-Type is another one, or missing.
    """
    if request.scope["method"] not in ("POST", "PUT", "PATCH"):
        return
    content_type = first_values(request.scope).get(b"content-type", b"")
    if content_type == b"application/json":
        return
    declared = text_of(content_type).partition(";")[0].strip().lower()
    if declared != "application/json" and not (declared.startswith("application/") and "+json" in declared):
        raise UnsupportedContent("send the body as JSON, with the header Content-Type: application/json")


def check_load(service: ServingCore, scope: Scope, content_bytes: int) -> None:
    """Refuse a request for inference, whose body has so many bytes, if too much waits already.

    Raises:
        Overloaded: as in `Batcher.check_load`.
    """
    if not service.batcher.waiting:
        return
    try:
        options = request_options(scope, service.settings.request_timeout_seconds)
    except InvalidRequest:  # the route raises it, after it has checked the body
        return
    service.batcher.check_load(content_bytes, deadline=options.deadline, client=options.client, weight=options.weight)


def read_body(content: bytes, expected: TypeAdapter[Any], max_items: int) -> Any:
    """Return a JSON body as a validated object.

    Raises:
        RequestValidationError, HTTPException: those that FastAPI raises, so that `problems` maps one kind.
        TooLarge: the body has more than `max_items` inputs.
    """
    if not content:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required"}])
    try:
        value = _loaded(content)
    except json.JSONDecodeError as error:
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([fault]) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number too long, too deep
        raise HTTPException(400) from error
    try:
        return expected.validator.validate_python(value, context={"max_items": max_items})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from error


def _loaded(content: bytes) -> Any:
    try:
        return parse_json(content, orjson.loads)
    except orjson.JSONDecodeError:
        # FastAPI's parser decides: it is slower, and accepts lone surrogates, NaN and UTF-16.
        return parse_json(content, json.loads)
