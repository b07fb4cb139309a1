"""Fast path of the requests that are sent most: one look-up of their path, then one function in place of all layers."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from sparserve.service.catalog.catalog import Catalog
from sparserve.service.catalog.snapshot import Snapshot
from sparserve.service.http.headers import first_values
from sparserve.service.http.json_route import BodyHandler, DirectRoute, JsonAnswer
from sparserve.service.http.middleware.authorization import RequestAuthorization, note_address
from sparserve.service.http.middleware.body_limit import BodyReader
from sparserve.service.http.middleware.disconnect import DisconnectScope
from sparserve.service.http.middleware.request_log import RequestLogging
from sparserve.service.http.middleware.security_headers import RAW_DEFAULT_HEADERS
from sparserve.service.http.problems import EXPECTED_ERRORS, ProblemAnswer, problem_response, response_to
from sparserve.service.limits import BodyBudget, BodyShare
from sparserve.service.observability.request_log import LoggedRequest

# Name, in the state of a request, of its server's function that writes a whole answer with a body.
RESPOND: Final = "respond"
Respond = Callable[[Scope, int, list[tuple[bytes, bytes]], bytes], bool]
# Requests with one of these headers need more than the fast path does: packed or chunked bodies, a body that waits for
# the server's consent, and calls from web pages.
_UNUSUAL: Final = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"origin"})


@dataclass(frozen=True, slots=True)
class Target:
    """A route, its handler, and the parameters of its path for one task or variant.

    `for_everyone` is True if neither keys nor rates limit who may send such requests.
    """

    route: DirectRoute
    handle: BodyHandler
    parameters: Mapping[str, str]
    for_everyone: bool


def _counted(receive: Receive, request: LoggedRequest) -> Receive:
    async def counted_receive() -> Message:
        message = await receive()
        request.bytes_in += len(message.get("body", b""))
        return message

    return counted_receive


class FastPath:
    """Answers requests to a `DirectRoute` without the framework.

    FastAPI passes a request through a dozen layers, each of which wraps `receive` or `send`, and matches its path
    against the pattern of one route after another. This takes as long as a small model takes for a short text. Here a
    table has the path of every such route for every task and variant that is served; it is made again when the
    catalog's snapshot is replaced. The steps, their order, their functions and so the answers are those of the
    middlewares.

    Args:
        routes: those of all protocols, in the order of the router.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        routes: Iterable[BaseRoute],
        catalog: Catalog,
        authorization: RequestAuthorization,
        bodies: BodyReader,
        budget: BodyBudget,
        logging: RequestLogging,
    ) -> None:
        self._app = app
        self._handlers = [
            (route, route.get_body_handler())
            for route in routes
            if isinstance(route, DirectRoute) and route.methods == {"POST"}
        ]
        self._catalog = catalog
        self._authorization = authorization
        self._bodies = bodies
        self._budget = budget
        self._logging = logging
        self._snapshot: Snapshot | None = None
        self._targets: dict[str, Target] = {}

    def find(self, scope: Scope) -> Target | None:
        """Return the target of a request that the fast path can answer; None leaves the request to the framework."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        snapshot = self._catalog.snapshot
        if snapshot is not self._snapshot:
            self._targets, self._snapshot = dict(self._paths(snapshot)), snapshot
        target = self._targets.get(scope["path"].removeprefix(scope.get("root_path", "")))
        if target is None or not _UNUSUAL.isdisjoint(first_values(scope)):
            return None
        return target

    async def answer(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, then count and log it."""
        scope["app"], scope["path_params"] = self._app, target.parameters
        request = self._logging.begin(scope)
        try:
            with DisconnectScope(scope, receive) as watch:
                try:
                    response = await self._respond(target, scope, receive, request, watch)
                except Exception as error:
                    response = problem_response(500, self._logging.failed(request, error), scope)
                if response is not None:
                    await self._send(response, request, scope, send)
        except asyncio.CancelledError:
            self._logging.dropped()
            raise
        finally:
            self._logging.end(request, scope)

    async def _respond(
        self, target: Target, scope: Scope, receive: Receive, request: LoggedRequest, watch: DisconnectScope
    ) -> Response | None:
        """Return the answer; None if the client disconnected before the end of its body."""
        http = Request(scope, receive)
        try:
            if target.for_everyone:
                note_address(scope)
            else:
                self._authorization.check(scope)
            with BodyShare(self._budget) as share:
                content = self._bodies.received(scope, share)
                if content is not None:
                    request.bytes_in = len(content)
                else:
                    content = await self._bodies.read(scope, _counted(receive, request), share)
                    if content is None:
                        return None
                watch.start()
                scope["route"] = target.route  # those refused before have none, as in the framework
                return await target.handle(http, content)
        except EXPECTED_ERRORS as error:
            return response_to(error, http)

    async def _send(self, response: Response, request: LoggedRequest, scope: Scope, send: Send) -> None:
        request.status, request.bytes_out = response.status_code, len(response.body)
        headers = [*response.raw_headers, *self._logging.headers(request)]
        draining = self._logging.draining
        if draining:  # both may close the connection
            headers = list(dict.fromkeys(headers))
        if isinstance(response, JsonAnswer | ProblemAnswer):
            headers += RAW_DEFAULT_HEADERS
            respond: Respond | None = scope["state"].get(RESPOND)
            closes = draining or (isinstance(response, ProblemAnswer) and response.closes)
            if (
                respond is not None
                and not closes
                and respond(scope, response.status_code, headers, bytes(response.body))
            ):
                return
        else:
            present = {name for name, _ in headers}
            headers += [header for header in RAW_DEFAULT_HEADERS if header[0] not in present]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def _paths(self, snapshot: Snapshot) -> Iterator[tuple[str, Target]]:
        """Yield every path and its target; the routes in reverse, so that the first of two with the same path wins."""
        variants = [{"task": task, "variant": variant} for task, variant in snapshot.engines]
        tasks = [{"task": task} for task in dict.fromkeys(task for task, _ in snapshot.engines)]
        for route, handle in reversed(self._handlers):
            for parameters in ({}, *tasks, *variants):
                if parameters.keys() == route.param_convertors.keys():
                    path = route.path_format.format(**parameters)
                    yield path, Target(route, handle, parameters, self._authorization.admits_everyone("POST", path))
