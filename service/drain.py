"""State of a shutdown, shared by the app, its probes and its servers."""

from collections.abc import Callable


class Drain:
    """Flag for a process that is shutting down; `/readyz` and the Connection header follow it at once.

    `dropped` counts requests that did not finish within the grace time.
    """

    def __init__(self) -> None:
        self.draining = False
        self.dropped = 0
        self._closers: list[Callable[[], object]] = []

    def begin(self) -> None:
        """Accept no new clients from now on."""
        self.draining = True

    def on_close(self, close: Callable[[], object]) -> None:
        """Register a callback that closes another listening socket together with HTTP's; called on the event loop."""
        self._closers.append(close)

    def close(self) -> None:
        """Close the registered sockets; the grace time of accepted requests begins now."""
        for close in self._closers:
            close()
