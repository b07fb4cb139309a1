"""Rate limits in requests per minute for each key or address, in one table for all processes of a service.

A client may send the requests of one minute at once, and then one each time that 1/rate of a minute has passed: a token
bucket. The generic cell rate algorithm (ITU-T I.371) needs one number per client, the time at which its bucket is full
again. A client whose time has passed may be forgotten, because a new client starts with a full bucket.
"""

import hashlib
import ipaddress
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sparserve.service.mapped_file import reserve_file

FILE_NAME: Final = "rates"
IPV6_NETWORK_BITS: Final = 64
BURST_SECONDS: Final = 60.0
# A client's row is chosen by its digest; a full row forgets the client whose bucket is full first.
ROWS: Final = 2048
CLIENTS_OF_ROW: Final = 8
ROUNDING_SECONDS: Final = 1e-6
_ROW: Final = struct.Struct("Qd" * CLIENTS_OF_ROW)  # digest, full at
_CELL: Final = struct.Struct("Qd")
_KEY_BYTES: Final = 16


def reserve_rates(folder: Path) -> None:
    """Make the table that the processes of a service share.

    Raises:
        OSError: there is no room.
    """
    path = folder / FILE_NAME
    reserve_file(path, ROWS * _ROW.size + _KEY_BYTES)
    with path.open("r+b") as file:
        file.seek(ROWS * _ROW.size)
        file.write(os.urandom(_KEY_BYTES))


class RateLimiter:
    """Token buckets of the most recent clients. One thread of a process uses it.

    Args:
        folder: of the table that `reserve_rates` has made; None for a table of this process.
        clock: monotonic clock in seconds, the same in all processes.
        rows: size of the table of this process.
    """

    def __init__(
        self, folder: Path | None = None, *, clock: Callable[[], float] = time.monotonic, rows: int = ROWS
    ) -> None:
        self._clock = clock
        self._file: int | None = None
        self._table: mmap.mmap | bytearray
        if folder is None:
            self._table = bytearray(rows * _ROW.size) + os.urandom(_KEY_BYTES)
        else:
            self._file = os.open(folder / FILE_NAME, os.O_RDWR)
            self._table = mmap.mmap(self._file, 0)
        self._rows = (len(self._table) - _KEY_BYTES) // _ROW.size
        self._key = bytes(self._table[-_KEY_BYTES:])

    def wait_seconds(self, client: str, per_minute: int) -> float:
        """Take one request out of a bucket; return 0, or the seconds until there is one."""
        # Keyed, so that nobody can choose names that push others out of their row.
        digest = int.from_bytes(hashlib.blake2b(client.encode(), digest_size=8, key=self._key).digest(), "big") or 1
        row = digest % self._rows * _ROW.size
        if self._file is None:
            return self._wait_seconds(digest, row, per_minute)
        import fcntl  # not on Windows, where a service is one process

        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, row)  # the kernel releases the lock of a process that dies
        try:
            return self._wait_seconds(digest, row, per_minute)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, row)

    def _wait_seconds(self, digest: int, row: int, per_minute: int) -> float:
        now = self._clock()
        cells = _ROW.unpack_from(self._table, row)
        digests, full_at = cells[::2], cells[1::2]
        known = digest in digests
        cell = digests.index(digest) if known else full_at.index(min(full_at))
        # More than a burst away only if the rate was lowered.
        full = min(max(full_at[cell], now), now + BURST_SECONDS) if known else now
        full += 60.0 / per_minute
        wait = full - now - BURST_SECONDS
        if wait > ROUNDING_SECONDS:
            return wait
        _CELL.pack_into(self._table, row + cell * _CELL.size, digest, full)
        return 0.0


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
