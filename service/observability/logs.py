"""Logging of the service and its libraries: one line of text, or one JSON object, per record, on standard error.

A thread writes the lines, because the reader of standard error may stop reading. A traceback shows the location and the
class of an exception, but not its message, which might repeat a text.
"""

import contextlib
import logging
import os
import queue
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from types import TracebackType
from typing import Any, Final, Literal

from pythonjsonlogger.orjson import OrjsonFormatter

LogFormat = Literal["text", "json"]
# The attribute of a record, set by `extra`, with fields that the JSON object contains in place of the message.
FIELDS: Final = "fields"
QUEUE_CAPACITY: Final = 10_000  # records
CLOSE_SECONDS: Final = 1.0
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logging(level: str, log_format: LogFormat | None) -> None:
    """Write every record of `level` and above to standard error; by default as text on a terminal, else as JSON.

    Uncaught exceptions of any thread and Python's warnings become records too.
    """
    chosen = log_format or ("text" if sys.stderr.isatty() else "json")
    output = DescriptorHandler(sys.stderr.fileno())
    output.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[BackgroundHandler(output)], force=True)
    logging.captureWarnings(True)
    # The default form of a warning has a second line with the source code.
    warnings.formatwarning = _warning_line
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda uncaught: _log_uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)


class DescriptorHandler(logging.Handler):
    """Writes lines to a file descriptor, without a buffer or a lock that a blocked write could hold at exit."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def createLock(self) -> None:
        """Use no lock: one thread writes."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record completely."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while line:
                line = line[os.write(self._descriptor, line) :]
        except Exception:
            self.handleError(record)


class BackgroundHandler(QueueHandler):
    """Hands records to a thread that passes them to `output`. If the queue is full, records are dropped and counted."""

    def __init__(self, output: logging.Handler) -> None:
        self.records: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_CAPACITY)
        super().__init__(self.records)
        self.dropped = 0
        self._listener = _Listener(self, output)
        self._listener.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record itself. The base class would format it here, with the message of its exception."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record without waiting."""
        try:
            self.records.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write the queued records; those not written within `CLOSE_SECONDS` are lost."""
        with contextlib.suppress(queue.Full):
            self._listener.enqueue_sentinel()
        self._listener.join(CLOSE_SECONDS)
        super().close()


class _Listener(QueueListener):
    """The thread of a `BackgroundHandler`; it also reports dropped records once the queue is empty."""

    _thread: threading.Thread | None

    def __init__(self, source: BackgroundHandler, output: logging.Handler) -> None:
        super().__init__(source.records, output)
        self._source = source

    def handle(self, record: logging.LogRecord) -> None:
        super().handle(record)
        if self._source.dropped and self._source.records.empty():
            dropped, self._source.dropped = self._source.dropped, 0
            message = f"{dropped} log lines were dropped: standard error was not read in time"
            fields = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "msg": message}
            super().handle(logging.makeLogRecord(fields))

    def join(self, seconds: float) -> None:
        """Wait for the thread; `stop` of the base class would wait without a limit."""
        if self._thread is not None:
            self._thread.join(seconds)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; the traceback of an exception on the lines after."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        record.asctime = self.formatTime(record)
        record.message = _message_of(record)
        error = _exception_of(record)
        return self.formatMessage(record) + (f"\n{traceback_of(error)}" if error else "")


class JsonFormatter(OrjsonFormatter):
    """One JSON object: time, level and logger, then the record's fields, or its message if it has none."""

    def __init__(self) -> None:
        super().__init__(json_default=str)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill in the object."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data.update(getattr(record, FIELDS, None) or {"message": _message_of(record)})
        error = _exception_of(record)
        if error is not None:
            log_data.update({"exception": type(error).__qualname__, "traceback": traceback_of(error)})

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Replace lone surrogates, which JSON cannot contain."""
        return {
            name: value.encode(errors="replace").decode() if isinstance(value, str) else value
            for name, value in log_data.items()
        }


def traceback_of(error: BaseException) -> str:
    """Return the frames and classes of an exception and of its causes, the last one first, without their messages."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{frames}{type(current).__qualname__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\nafter\n".join(parts)


def _exception_of(record: logging.LogRecord) -> BaseException | None:
    info: _ExceptionInfo | None = record.exc_info
    return info[1] if info else None


def _message_of(record: logging.LogRecord) -> str:
    """Return the message; of a record with an exception only the first line, because asyncio describes it below."""
    message = record.getMessage()
    return message if _exception_of(record) is None else message.partition("\n")[0]


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{filename}:{lineno}: {category.__name__}: {message}"


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) or error is None:
        return
    logging.getLogger("sparserve").critical("uncaught exception", exc_info=(kind, error, trace))
