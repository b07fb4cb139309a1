"""Rate limits in requests per minute: a token bucket per key or address, in this process.

A bucket holds at most the requests of one minute and fills evenly. A client may send them all at once and then waits.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_BUCKETS: Final = 10_000
IPV6_NETWORK_BITS: Final = 64


class RateLimiter:
    """Buckets of the most recent clients; a forgotten client starts with a full bucket."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # remaining, at what time

    def __len__(self) -> int:
        """Return the number of buckets."""
        return len(self._buckets)

    def wait_seconds(self, client: str, per_minute: int) -> float:
        """Take one request out of a bucket; return 0, or the seconds until there is one."""
        now = self._clock()
        left, since = self._buckets.pop(client, (float(per_minute), now))
        left = min(left + (now - since) * per_minute / 60, float(per_minute))
        wait = 0.0 if left >= 1 else (1 - left) * 60 / per_minute
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        return wait


def network_of(address: str) -> str:
    """Return the address, or for IPv6 its network: one client usually owns all of it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), IPV6_NETWORK_BITS), strict=False))
