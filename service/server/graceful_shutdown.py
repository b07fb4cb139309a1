"""Graceful shutdown without dropped requests: readiness off on the signal, then the sockets, then running requests."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Final

import uvicorn

from sparserve.service.drain import Drain
from sparserve.service.server.listener import ConnectionCounts, Listener
from sparserve.service.server.stop_signals import StopSignals

SETTLE_SECONDS: Final = 0.1


class DrainingServer(uvicorn.Server):
    """uvicorn server that informs the app of a signal before it closes its sockets.

    On SIGTERM or SIGINT `/readyz` answers 503 at once. After `delay_seconds`, in which load balancers notice, the
    listening socket closes. Running requests finish within the grace time of the config, and the exit status is 0.
    A second signal skips the delay. A worker obeys its supervisor instead, because a signal may reach both.

    Args:
        config: uvicorn's.
        drain: told of the shutdown.
        delay_seconds: between the signal and the closing of the sockets.
        signals: those that arrived before the server runs.
        shared: listening sockets that this process shares with other workers, and the table of connections.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        *,
        delay_seconds: float,
        signals: StopSignals | None = None,
        shared: tuple[Sequence[socket.socket], ConnectionCounts] | None = None,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._delay_seconds = delay_seconds
        self._signals = signals
        self._shared = shared
        self._listeners: list[Listener] = []
        self._close_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown; called by the signal handler."""
        if self._drain.draining and self._shared:
            return
        self._close_at = time.monotonic() + (0 if self._drain.draining else self._delay_seconds)
        self._drain.begin()
        super().handle_exit(sig, frame)

    def hurry(self, *, force: bool) -> None:
        """Skip the delay, and with `force` also the wait for open connections: a worker's second signal."""
        self._close_at = 0.0
        self.force_exit = self.force_exit or force

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then listen."""
        await super().startup(sockets=sockets if self._shared is None else [])
        listeners, counts = self._shared or ((), None)
        if self._shared is None and sys.platform != "win32":
            # In place of those of the event loop, on the same sockets.
            listeners = self._listening_sockets()
            for server in self.servers:
                server.close()
        self._listeners = [
            Listener(
                listener,
                self._protocol,
                counts=counts,
                open_connections=lambda: self.server_state.connections,
            )
            for listener in listeners
        ]
        if self._listeners:
            self.servers: list[Any] = list(self._listeners)

    async def on_tick(self, counter: int) -> bool:
        """Return True when it is time to stop listening."""
        for listener in self._listeners:
            listener.publish()
        return await super().on_tick(counter) and time.monotonic() >= self._close_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, then the connections as they become idle."""
        self._drain.close()
        # Closing a listening socket resets connections that the loop has not accepted yet. A second descriptor keeps it
        # open until they are accepted.
        listeners = self._listening_sockets()
        await asyncio.sleep(SETTLE_SECONDS)  # pending handshakes complete and are accepted
        for server in self.servers:
            server.close()
        await self._accept_pending(listeners)
        # A connection that looks idle may hold an unread request; closing it now would drop the request.
        await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)

    def _listening_sockets(self) -> list[socket.socket]:
        """Return a second descriptor of each listening socket."""
        return [socket.socket(fileno=os.dup(one.fileno())) for server in self.servers for one in server.sockets]

    async def _accept_pending(self, listeners: list[socket.socket]) -> None:
        connections = []
        for listener in listeners:
            with listener, contextlib.suppress(OSError):  # ends with BlockingIOError: none is left
                while True:
                    connections.append(listener.accept()[0])
        for connection in connections:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        protocol_class: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture signals like uvicorn, but do not raise them again afterwards: the exit status would not be 0."""
        with super().capture_signals():
            for number in self._signals.received if self._signals else ():
                self.handle_exit(number, None)
            yield
            self._captured_signals.clear()
