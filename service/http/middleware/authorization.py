"""Who may send what: every request's key and rate, looked at before anything of its body is read."""

import ipaddress
import math
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sparserve.service.errors import Forbidden, RateLimited, ServiceError, Unauthorized
from sparserve.service.http.problems import error_response
from sparserve.service.observability.metrics import Metrics
from sparserve.service.security.api_keys import ApiKey, Keyring
from sparserve.service.security.api_keys import Scope as KeyScope
from sparserve.service.security.rate_limit import RateLimiter, network_of
from sparserve.service.settings import Settings

# What tells nothing of the models or the traffic: probes, and pages that ask for the key themselves.
OPEN: Final = frozenset(
    {"/", "/docs", "/openapi.json", "/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"}
)
OPEN_FOLDER: Final = "/pages/"
METRICS: Final = "/metrics"
ADMIN_FOLDERS: Final = ("/v1/admin/", "/v2/repository/models/")
# Texts that other clients have sent may be among them.
ADMIN_ENDING: Final = "/disagreements"
# An administrator's only for its place: it names variants and versions, which /v1/models does, too.
HARMLESS: Final = frozenset({"/v1/admin/overrides"})
# Reading how an experiment does is for all; beginning and ending one is not.
EXPERIMENTS: Final = "/v1/compare/"
# The last part of a path that changes what is served. One that no route has is better in this list than missing.
ADMIN_ACTIONS: Final = frozenset({"promote", "rollback", "pin", "unpin", "load", "unload"})
READING: Final = frozenset({"GET", "HEAD"})
ANY: Final = frozenset[KeyScope]({"classify", "admin"})
ADMIN: Final = frozenset[KeyScope]({"admin"})
CLASSIFY: Final = frozenset[KeyScope]({"classify"})


def scopes_for(method: str, path: str) -> frozenset[KeyScope]:
    """The scopes of which a key needs one; none for what is open to all.

    What is not named here needs a key for classifying, so that a new route is never open by mistake.
    """
    if path in OPEN or path.startswith(OPEN_FOLDER):
        return frozenset()
    if path.startswith(ADMIN_FOLDERS) or path.endswith(ADMIN_ENDING):
        return ADMIN
    if method in READING or path == "/v2/repository/index":
        return ANY
    changes = path.rpartition("/")[2] in ADMIN_ACTIONS or path.startswith(EXPERIMENTS)
    return ADMIN if changes else CLASSIFY


class Access:
    """ASGI middleware: who has no right is answered without that a byte of the body is read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        keyring: Keyring | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keyring = keyring or (Keyring(settings.keys_file) if settings.keys_file else None)
        self._limiter = limiter or RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403 or 429."""
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            try:
                self._admit(scope, state)
            except ServiceError as error:
                counter = (
                    self._metrics.http.rate_limited if isinstance(error, RateLimited) else self._metrics.http.denied
                )
                counter.inc()
                await error_response(error, state.get("request_id"))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, state: dict[str, object]) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        needed = scopes_for(scope["method"], path)
        if not needed or (path == METRICS and not self._settings.metrics_need_key):
            return
        headers = Headers(scope=scope)
        if self._keyring is None:
            if needed == ADMIN and not (path in HARMLESS and scope["method"] in READING):
                self._check_keyless_admin(headers)
            if self._settings.anonymous_rate is not None:
                client = scope.get("client") or ("",)
                self._limit(f"address {network_of(client[0])}", self._settings.anonymous_rate)
            return
        key = self._authenticated(self._keyring, headers)
        state["key_name"] = key.name
        if not needed & key.scopes:
            raise Forbidden(f"the key {key.name} may not do this: it needs the scope {' or '.join(sorted(needed))}")
        if key.rate is not None:
            self._limit(f"key {key.id}", key.rate)

    def _authenticated(self, keyring: Keyring, headers: Headers) -> ApiKey:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        sent = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not sent:
            raise Unauthorized("send an API key, as Authorization: Bearer KEY or X-Api-Key: KEY", invalid=False)
        key = keyring.find(sent)
        if key is None:
            raise Unauthorized("this API key is not valid: it is unknown, revoked or has expired", invalid=True)
        return key

    def _check_keyless_admin(self, headers: Headers) -> None:
        if not self._settings.admin_without_key:
            raise Forbidden(
                "models are changed, and what variants disagree on is read, with a key only: make one with "
                "`sparserve keys create NAME --scope admin` and serve with --keys-file; or serve with "
                "--admin-without-key true where every client is trusted"
            )
        # Without a key to know them by, a page on any site could have its visitor's browser send this.
        origin = headers.get("origin")
        if origin is not None and origin not in self._settings.cors_origins:
            raise Forbidden("a web page may do this with a key only, unless cors_origins names its origin")

    def _limit(self, who: str, per_minute: int) -> None:
        wait = self._limiter.wait_seconds(who, per_minute)
        if wait:
            seconds = math.ceil(wait)
            raise RateLimited(f"more than {per_minute} requests a minute: try again in {seconds} s", seconds)


def exposure(settings: Settings) -> str | None:
    """What to warn of at the start; None where keys are asked for, or only this machine can connect."""
    if settings.keys_file is not None or _is_local(settings.host):
        return None
    may = "classify, and change what is served" if settings.admin_without_key else "classify"
    return f"whoever reaches {settings.host}:{settings.port} may {may}: no keys_file is set (`sparserve keys create`)"


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
