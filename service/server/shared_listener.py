"""Accept connections from a listening socket that the workers of a service share, so that each gets as many.

asyncio and uvloop accept whatever is pending in one go, so the first worker to wake would get a whole burst, and keep
it: clients keep their connections open. Sockets of the same port (SO_REUSEPORT) would spread by chance, and lose the
connections that wait for a worker when it dies. Here a worker that has more connections than another one leaves a new
one to it for a moment.
"""

import asyncio
import mmap
import os
import socket
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from sparserve.service.mapped_file import reserve_file

FILE_NAME: Final = "connections"
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

    def fewest_elsewhere(self) -> int | None:
        """Return the smallest number of connections of another worker; None if no other one accepts any."""
        numbers = [number for (number,) in _CELL.iter_unpack(self._table)]
        others = [number for worker, number in enumerate(numbers) if worker != self._worker and number != _ABSENT]
        return min(others, default=None)


class SharedListener:
    """Takes the place of an `asyncio.Server` for one listening socket.

    Args:
        listener: the socket; closed with this object.
        make_protocol: makes the protocol of a connection.
        counts: table of the connections of all workers.
        open_connections: returns the protocols of the open connections of this worker.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        counts: ConnectionCounts,
        open_connections: Callable[[], Collection[object]],
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
        self._resume()

    def publish(self) -> int:
        """Tell the other workers the number of connections, and return it."""
        opened = self._open_connections()
        connections = len(opened) + sum(protocol not in opened for protocol in self._opening.values())
        self._counts.publish(connections)
        return connections

    def close(self) -> None:
        """Accept no more connections."""
        if self._listener.fileno() == -1:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._counts.leave()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Wait for connections that are being opened."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _readable(self) -> None:
        """Accept one connection, unless another worker should."""
        connections, fewest = self.publish(), self._counts.fewest_elsewhere()
        if fewest is not None and connections > fewest + SLACK * connections:
            self._yields = self._yields + 1 if fewest == self._yielded_to else 1
            self._yielded_to = fewest
            if self._yields <= YIELDS:
                self._pause(YIELD_SECONDS)
                return
        self._yielded_to = None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster
        except OSError:
            self._pause(EXHAUSTED_SECONDS)
            return
        protocol = self._make_protocol()
        opening: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: protocol, connection)
        )
        self._opening[opening] = protocol
        opening.add_done_callback(self._opened)
        self.publish()

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
