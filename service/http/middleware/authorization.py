"""Middleware that checks keys and rates."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sparserve.service.errors import RateLimited, ServiceError
from sparserve.service.http.problems import error_response
from sparserve.service.observability.metrics import Metrics
from sparserve.service.security.authorizer import Authorizer, Credentials, client_name


class AuthorizationMiddleware:
    """Reject unauthorized requests before reading any of the body."""

    def __init__(self, app: ASGIApp, *, authorizer: Authorizer, metrics: Metrics) -> None:
        self._app = app
        self._authorizer = authorizer
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403 or 429."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ServiceError as error:
                http = self._metrics.http
                (http.rate_limited if isinstance(error, RateLimited) else http.denied).inc()
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        if not self._authorizer.scopes(method, path):
            return
        headers = Headers(scope=scope)
        credentials = Credentials(
            authorization=headers.get("authorization", ""),
            api_key=headers.get("x-api-key", ""),
            origin=headers.get("origin"),
            address=(scope.get("client") or ("",))[0],
        )
        key = self._authorizer.authenticate(credentials)
        state = scope.setdefault("state", {})
        state["client"] = client_name(key, credentials.address)
        if key is not None:
            state["key_name"] = key.name
            state["weight"] = key.weight or 1.0
        self._authorizer.authorize(key, method, path, credentials)
