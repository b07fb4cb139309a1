"""Stopping without dropping anything: readiness off on the signal, then the sockets, then what still runs."""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import uvicorn

from sparserve.service.drain import Drain

SETTLE_SECONDS = 0.1
_SO_ATTACH_FILTER: Final = 26  # of Linux; Python's socket module does not name it
# The kernel's packet filter over a TCP header: what has the flag SYN is dropped, everything else passes.
_NO_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


class DrainingServer(uvicorn.Server):
    """uvicorn, which closes its sockets before the app hears of a signal, told to let the app know first.

    On SIGTERM or SIGINT: `/readyz` answers 503 at once; after `delay_seconds`, in which load balancers see that,
    the listening socket closes; running requests finish within the config's grace time; the exit status is 0.
    A second signal skips the delay.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, *, delay_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._delay_seconds = delay_seconds
        self._close_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Runs on the signal itself, between two steps of the event loop."""
        self._close_at = time.monotonic() + (0 if self._drain.draining else self._delay_seconds)
        self._drain.begin()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening now."""
        return await super().on_tick(counter) and time.monotonic() >= self._close_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening socket, then the connections as they fall idle."""
        self._drain.close()
        # Closing a listening socket resets the connections that clients have made and the loop has not accepted yet:
        # a second descriptor keeps it open until those are accepted too.
        listeners = [socket.socket(fileno=os.dup(one.fileno())) for server in self.servers for one in server.sockets]
        # One that is made after the last of them was accepted would be reset all the same: no more may be made.
        for listener in listeners:
            turn_away(listener)
        await asyncio.sleep(SETTLE_SECONDS)  # connections that are half made are whole by then, and accepted
        for server in self.servers:
            server.close()
        await self._accept_the_rest(listeners)
        # A request may lie unread on a connection that looks idle; closing that one now would drop it.
        await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)

    async def _accept_the_rest(self, listeners: list[socket.socket]) -> None:
        connections = []
        for listener in listeners:
            with listener, contextlib.suppress(OSError):  # at the latest BlockingIOError: nobody is left
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
        """As uvicorn's, but a signal that was obeyed is not raised again: the exit status would not be 0."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def turn_away(listener: socket.socket) -> None:
    """Let no more connections begin on a listening socket; those that have been begun go on. On Linux.

    Clients that try meanwhile try again after a second, and are refused once the socket is closed.
    """
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    program = struct.pack("HP", len(_NO_SYN) // struct.calcsize("HBBI"), ctypes.addressof(code))
    with contextlib.suppress(OSError):  # a kernel without it: then the few that come last may be reset
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
