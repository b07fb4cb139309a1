"""Where log lines go: to standard error by a thread of their own, because whoever reads it may stop reading."""

import contextlib
import logging
import os
import queue
import threading
from logging.handlers import QueueHandler
from typing import Final

WAITING_LINES: Final = 10_000
CLOSE_SECONDS: Final = 1.0


class Descriptor(logging.Handler):
    """Writes lines to a file descriptor, without a buffer that a stuck thread could keep locked at the exit."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, all of it."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while line:
                line = line[os.write(self._descriptor, line) :]
        except Exception:
            self.handleError(record)


class Background(QueueHandler):
    """Hands records to a thread that gives them to `output`; beyond `WAITING_LINES` they are dropped, and counted."""

    def __init__(self, output: logging.Handler) -> None:
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(WAITING_LINES)
        super().__init__(self._lines)
        self._output = output
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record itself: no other process gets it."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Let a record wait; never waits itself."""
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for a moment: what cannot be written by then is lost."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        # Without the output's lock, which the exit would wait for: no other thread writes.
        while (record := self._lines.get()) is not None:
            self._output.emit(record)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                message = f"{dropped} lines were lost: nobody read them"
                facts = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "msg": message}
                self._output.emit(logging.makeLogRecord(facts))
