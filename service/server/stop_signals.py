"""SIGTERM and SIGINT while the service starts: noted as soon as the program runs, obeyed as soon as it can stop.

The kernel drops a signal that PID 1 of a container does not handle, and Python ends a process by default. Importing the
service takes a second, so the handler is installed before that.
"""

import signal
import threading
from types import FrameType
from typing import Any, Final, Self

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Handler that notes the signals to stop. A context manager; only one is installed at a time, the outermost."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handler, unless the main program has done so already; return the installed one."""
        installed = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if isinstance(installed, type(self)):
            return installed
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
