"""Accept connections in bursts, and share those of one listening socket between the workers of a service.

uvloop accepts one connection in each round of the event loop. While each round runs a batch of 20 ms, the connections
of a burst would wait for seconds. Here one round accepts up to `ACCEPTS`.

Workers share a socket, and clients keep their connections open, so no worker may take a whole burst. Sockets of the
same port (SO_REUSEPORT) would spread by chance, and lose the connections that wait for a worker when it dies. Here a
worker accepts its share of all open and pending connections, and leaves a connection to another worker that has fewer
for a moment.
"""

import asyncio
import math
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from sparserve.service.mapped_file import reserve_file

FILE_NAME: Final = "connections"
# Connections accepted in one round of the event loop at most: a few milliseconds.
ACCEPTS: Final = 64
# A worker with more connections than another one looks this often, and so many times, before it accepts one more in
# place of a worker that does not.
YIELD_SECONDS: Final = 0.001
YIELDS: Final = 10
# Among hundreds of connections a worker may have this part more.
SLACK: Final = 0.1
# Without free descriptors: how long to wait for one.
EXHAUSTED_SECONDS: Final = 1.0
_CELL: Final = struct.Struct("q")
_ABSENT: Final = -1
# Offset of `tcpi_unacked` in Linux's `struct tcp_info`; of a listening socket it counts pending connections.
_PENDING_OFFSET: Final = 24


def reserve_connection_counts(folder: Path, workers: int) -> None:
    """Make the table of the number of connections of each worker; none accepts any yet.

    Raises:
        OSError: there is no room.
    """
    reserve_file(folder / FILE_NAME, workers * _CELL.size)
    for worker in range(workers):
        ConnectionCounts(folder, worker).leave()


class ConnectionCounts:
    """The number of open connections of one worker, which all can see; one thread writes it."""

    def __init__(self, folder: Path, worker: int) -> None:
        with (folder / FILE_NAME).open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), 0)
        self._worker = worker

    def publish(self, connections: int) -> None:
        """Set the number of this worker."""
        _CELL.pack_into(self._table, self._worker * _CELL.size, connections)

    def leave(self) -> None:
        """Accept no more connections."""
        self.publish(_ABSENT)

    def elsewhere(self) -> list[int]:
        """Return the number of connections of each other worker that accepts any."""
        numbers = [number for (number,) in _CELL.iter_unpack(self._table)]
        return [number for worker, number in enumerate(numbers) if worker != self._worker and number != _ABSENT]


class Listener:
    """Takes the place of an `asyncio.Server` for one listening socket.

    Args:
        listener: the socket; closed with this object.
        make_protocol: makes the protocol of a connection.
        open_connections: returns the protocols of the open connections of this worker.
        counts: table of the connections of all workers; None for a process that shares the socket with none.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        open_connections: Callable[[], Collection[object]],
        counts: ConnectionCounts | None = None,
    ) -> None:
        self.sockets = [listener]
        self._listener = listener
        self._make_protocol = make_protocol
        self._counts = counts
        self._open_connections = open_connections
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[object], asyncio.Protocol] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._yields = 0
        self._yielded_to: int | None = None
        listener.setblocking(False)
        self.publish()
        self._resume()

    def publish(self) -> int:
        """Tell the other workers the number of connections, and return it."""
        opened = self._open_connections()
        connections = len(opened) + sum(protocol not in opened for protocol in self._opening.values())
        if self._counts is not None:
            self._counts.publish(connections)
        return connections

    def close(self) -> None:
        """Accept no more connections."""
        if self._listener.fileno() == -1:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())
        if self._counts is not None:
            self._counts.leave()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Wait for connections that are being opened."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _readable(self) -> None:
        """Accept the connections that are pending, but for those that another worker should accept."""
        allowed = ACCEPTS if self._counts is None else self._share(self._counts)
        if not allowed:
            self._pause(YIELD_SECONDS)
            return
        while allowed and self._accept():
            allowed -= 1
        self.publish()

    def _share(self, counts: ConnectionCounts) -> int:
        """Return the number of connections to accept now; 0 to leave them to another worker for a moment."""
        connections, others = self.publish(), counts.elsewhere()
        if not others:
            return ACCEPTS
        if connections > (fewest := min(others)) + SLACK * connections:
            self._yields = self._yields + 1 if fewest == self._yielded_to else 1
            self._yielded_to = fewest
            if self._yields <= YIELDS:
                return 0
        self._yielded_to = None
        workers = len(others) + 1
        share = math.ceil((connections + sum(others) + _pending(self._listener)) / workers) - connections
        return min(max(share, 1), ACCEPTS)

    def _accept(self) -> bool:
        """Accept one connection; return False if there was none."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster
        except OSError:
            self._pause(EXHAUSTED_SECONDS)
            return False
        protocol = self._make_protocol()
        opening: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: protocol, connection)
        )
        self._opening[opening] = protocol
        opening.add_done_callback(self._opened)
        return True

    def _opened(self, opening: "asyncio.Task[object]") -> None:
        del self._opening[opening]
        if not opening.cancelled():
            opening.exception()  # the client has gone

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener.fileno(), self._readable)


def inherited_socket(descriptor: int) -> socket.socket:
    """Return the listening socket of a descriptor from the supervisor, which children of this process do not get."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _pending(listener: socket.socket) -> int:
    """Return the number of connections that wait to be accepted; 0 where the system does not say."""
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:
        return 0
    try:
        information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PENDING_OFFSET + 4)
    except OSError:
        return 0
    return int(struct.unpack_from("I", information, _PENDING_OFFSET)[0])
