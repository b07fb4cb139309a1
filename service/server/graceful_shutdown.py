"""Graceful shutdown without dropped requests: readiness off on the signal, then the sockets, then running requests."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import uvicorn

from sparserve.service.drain import Drain

SETTLE_SECONDS: Final = 0.1


class DrainingServer(uvicorn.Server):
    """uvicorn server that informs the app of a signal before it closes its sockets.

    On SIGTERM or SIGINT `/readyz` answers 503 at once. After `delay_seconds`, in which load balancers notice, the
    listening socket closes. Running requests finish within the grace time of the config, and the exit status is 0.
    A second signal skips the delay.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, *, delay_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._delay_seconds = delay_seconds
        self._close_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown; called by the signal handler."""
        self._close_at = time.monotonic() + (0 if self._drain.draining else self._delay_seconds)
        self._drain.begin()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return True when it is time to stop listening."""
        return await super().on_tick(counter) and time.monotonic() >= self._close_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, then the connections as they become idle."""
        self._drain.close()
        # Closing a listening socket resets connections that the loop has not accepted yet. A second descriptor keeps it
        # open until they are accepted.
        listeners = [socket.socket(fileno=os.dup(one.fileno())) for server in self.servers for one in server.sockets]
        await asyncio.sleep(SETTLE_SECONDS)  # pending handshakes complete and are accepted
        for server in self.servers:
            server.close()
        await self._accept_pending(listeners)
        # A connection that looks idle may hold an unread request; closing it now would drop the request.
        await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)

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
            yield
            self._captured_signals.clear()
