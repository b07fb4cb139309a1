"""Decides if a request may be executed: its key, the key's scopes, and the rate limit. Knows no protocol."""

import ipaddress
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from sparserve.service.errors import Forbidden, RateLimited, Unauthorized
from sparserve.service.security.api_keys import ApiKey, Keyring, Scope
from sparserve.service.security.rate_limit import RateLimiter, network_of
from sparserve.service.security.scopes import ADMIN, KEYLESS_ADMIN_READS, METRICS_PATH, READ_METHODS, required_scopes


@dataclass(frozen=True)
class Credentials:
    """Facts about a client: the headers Authorization, X-Api-Key and Origin, and its address."""

    authorization: str = ""
    api_key: str = ""
    origin: str | None = None
    address: str = ""


def client_name(key: ApiKey | None, address: str) -> str:
    """Return the name under which a client's rate and share of the machine are counted: its key, or its network."""
    return f"key {key.id}" if key is not None else _address_name(address)


@lru_cache(maxsize=1024)
def _address_name(address: str) -> str:
    return f"address {network_of(address)}"


class Authorizer:
    """Checks requests against the keys of a file; without one, every client may classify.

    Args:
        anonymous_rate: requests per minute for each address, where there are no keys.
        admin_without_key: allow changes of the models served, where there are no keys.
        metrics_need_key: require a key for /metrics.
        origins: web pages' origins that may use the right of `admin_without_key`.
    """

    def __init__(
        self,
        keyring: Keyring | None,
        *,
        anonymous_rate: int | None = None,
        admin_without_key: bool = False,
        metrics_need_key: bool = False,
        origins: Collection[str] = (),
        limiter: RateLimiter | None = None,
    ) -> None:
        self._keyring = keyring
        self._anonymous_rate = anonymous_rate
        self._admin_without_key = admin_without_key
        self._metrics_need_key = metrics_need_key
        self._origins = origins
        self._limiter = limiter or RateLimiter()

    def scopes(self, method: str, path: str) -> frozenset[Scope]:
        """Return the scopes that a request needs one of; empty if it is open to everyone."""
        if path == METRICS_PATH and not self._metrics_need_key:
            return frozenset()
        return required_scopes(method, path)

    def admits_everyone(self, scopes: frozenset[Scope]) -> bool:
        """Return True if any client may send requests that need one of these scopes, as often as it likes."""
        return self._keyring is None and self._anonymous_rate is None and scopes != ADMIN

    def authenticate(self, credentials: Credentials) -> ApiKey | None:
        """Return the client's key; None where there are no keys.

        Raises:
            Unauthorized: the client sent no key, or an invalid one.
        """
        if self._keyring is None:
            return None
        scheme, _, token = credentials.authorization.partition(" ")
        text = token.strip() if scheme.lower() == "bearer" else credentials.api_key
        if not text:
            raise Unauthorized("send an API key, as Authorization: Bearer KEY or X-Api-Key: KEY", invalid=False)
        key = self._keyring.find(text)
        if key is None:
            raise Unauthorized("this API key is not valid: it is unknown, revoked or has expired", invalid=True)
        return key

    def authorize(self, key: ApiKey | None, method: str, path: str, credentials: Credentials) -> None:
        """Admit a request, and count it towards its rate limit.

        Raises:
            Forbidden: the key lacks the scope, or there are no keys and the request needs one.
            RateLimited: the key or the address has sent too many requests.
        """
        scopes = self.scopes(method, path)
        if key is None:
            if scopes == ADMIN and not (path in KEYLESS_ADMIN_READS and method in READ_METHODS):
                self._check_keyless_admin(credentials.origin)
            if self._anonymous_rate is not None:
                self._limit(client_name(key, credentials.address), self._anonymous_rate)
            return
        if not scopes & key.scopes:
            raise Forbidden(f"the key {key.name} may not do this: it needs the scope {' or '.join(sorted(scopes))}")
        if key.rate is not None:
            self._limit(client_name(key, credentials.address), key.rate)

    def _check_keyless_admin(self, origin: str | None) -> None:
        if not self._admin_without_key:
            raise Forbidden(
                "changing models and reading disagreements need a key: make one with "
                "`sparserve keys create NAME --scope admin` and serve with --keys-file; or serve with "
                "--admin-without-key true where every client is trusted"
            )
        # Without keys, a page of any site could make its visitor's browser send this.
        if origin is not None and origin not in self._origins:
            raise Forbidden("a web page needs a key for this, unless cors_origins lists its origin")

    def _limit(self, client: str, per_minute: int) -> None:
        wait = self._limiter.wait_seconds(client, per_minute)
        if wait:
            seconds = math.ceil(wait)
            raise RateLimited(f"more than {per_minute} requests per minute: try again in {seconds} s", seconds)


def exposure_warning(host: str, port: int, *, has_keys: bool, admin_without_key: bool) -> str | None:
    """Return a warning for a service that other machines can reach without a key; None if there is no such risk."""
    if has_keys or _is_local(host):
        return None
    action = "classify and change the models served" if admin_without_key else "classify"
    return (
        f"Serving without authentication on {host}:{port}: any client can {action}. "
        "Create a key with `sparserve keys create` and set keys_file."
    )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
