"""Requests a minute: a token bucket for each key or address, in this process.

A bucket holds a minute's requests at most and fills evenly, so that a client may send them all at once and then waits.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_BUCKETS: Final = 10_000
IPV6_NETWORK_BITS: Final = 64


class RateLimiter:
    """The buckets of those that were seen last; who is forgotten begins with a full one."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when that was so

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._buckets)

    def wait_seconds(self, who: str, per_minute: int) -> float:
        """Take a request out of a bucket: 0 if there was one, else the seconds until there will be."""
        now = self._clock()
        left, since = self._buckets.pop(who, (float(per_minute), now))
        left = min(left + (now - since) * per_minute / 60, float(per_minute))
        wait = 0.0 if left >= 1 else (1 - left) * 60 / per_minute
        self._buckets[who] = (left if wait else left - 1, now)
        if len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        return wait


def network_of(address: str) -> str:
    """Whom an address stands for: itself, or the network of an IPv6 address, all of which one client has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), IPV6_NETWORK_BITS), strict=False))
