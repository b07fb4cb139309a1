"""SIGTERM to a command: stopped as by Ctrl-C, with an exit code that tells the two apart.

The kernel drops a signal that PID 1 of a container does not handle, and Python has no handler for SIGTERM. Importing
the job takes seconds, so the handler is installed before that.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

EXIT_CODE: Final = 128 + signal.SIGTERM
# Set by `torchrun` and `accelerate launch` in each of several processes.
_LAUNCHED: Final = "RANK"


class Terminated(SystemExit):
    """The process has received SIGTERM; no handler of errors catches it."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Run a command that SIGTERM stops at the next line of Python, so that files and processes are cleaned up.

    One of several launched processes may wait for the others in code that no handler interrupts: there SIGTERM ends the
    process at once, as it does by default. PID 1, which some orchestrators give a rank as well, would lose the signal.

    Raises:
        Terminated: SIGTERM has arrived.
    """
    if _LAUNCHED in os.environ and os.getpid() != 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except Terminated:
        sys.stderr.write("\nStopped by SIGTERM. Run the same command again to resume.\n")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Terminated
