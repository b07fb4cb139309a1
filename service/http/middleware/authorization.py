"""Middleware that checks keys and rates."""

from starlette.types import ASGIApp, Receive, Scope, Send

from sparserve.service.errors import RateLimited, ServiceError
from sparserve.service.http.headers import first_values, text_of
from sparserve.service.http.problems import error_response
from sparserve.service.observability.metrics import Metrics
from sparserve.service.security.authorizer import Authorizer, Credentials, client_name


class RequestAuthorization:
    """Checks the key and the rate of HTTP requests, and counts those that are refused."""

    def __init__(self, authorizer: Authorizer, metrics: Metrics) -> None:
        self._authorizer = authorizer
        self._metrics = metrics

    def admits_everyone(self, method: str, path: str) -> bool:
        """Return True if any client may send such requests, as often as it likes: they need no `check`."""
        return self._authorizer.admits_everyone(self._authorizer.scopes(method, path))

    def check(self, scope: Scope) -> None:
        """Admit a request, and note the name of its key in its state.

        Raises:
            Unauthorized, Forbidden, RateLimited: as in `Authorizer`.
        """
        try:
            self._check(scope)
        except RateLimited:
            self._metrics.http.rate_limited.inc()
            raise
        except ServiceError:
            self._metrics.http.denied.inc()
            raise

    def _check(self, scope: Scope) -> None:
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        scopes = self._authorizer.scopes(method, path)
        if not scopes:
            return
        if self._authorizer.admits_everyone(scopes):
            note_address(scope)
            return
        address = (scope.get("client") or ("",))[0]
        state = scope.setdefault("state", {})
        headers = first_values(scope)
        origin = headers.get(b"origin")
        credentials = Credentials(
            authorization=text_of(headers.get(b"authorization", b"")),
            api_key=text_of(headers.get(b"x-api-key", b"")),
            origin=None if origin is None else text_of(origin),
            address=address,
        )
        key = self._authorizer.authenticate(credentials)
        state["client"] = client_name(key, credentials.address)
        if key is not None:
            state["key_name"] = key.name
            state["weight"] = key.weight or 1.0
        self._authorizer.authorize(key, method, path, credentials)


def note_address(scope: Scope) -> None:
    """Note, in the state of a request, the name of a client without a key."""
    scope.setdefault("state", {})["client"] = client_name(None, (scope.get("client") or ("",))[0])


class AuthorizationMiddleware:
    """Reject unauthorized requests before reading any of the body."""

    def __init__(self, app: ASGIApp, *, authorization: RequestAuthorization) -> None:
        self._app = app
        self._authorization = authorization

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403 or 429."""
        if scope["type"] == "http":
            try:
                self._authorization.check(scope)
            except ServiceError as error:
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)
