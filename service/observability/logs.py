"""Logging of the service and its libraries: one line of text, or one JSON object, per record, on standard error.

A thread writes the lines, because the reader of standard error may stop reading. A traceback shows the location and the
class of an exception, but not its message, which might repeat a text.
"""

import contextlib
import functools
import logging
import os
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

import orjson
from pythonjsonlogger.orjson import OrjsonFormatter

LogFormat = Literal["text", "json"]
# The attribute of a record, set by `extra`, with fields that the JSON object contains in place of the message.
FIELDS: Final = "fields"
QUEUE_CAPACITY: Final = 10_000  # records
# How long a record may wait for others, and how many are written with one call.
BATCH_SECONDS: Final = 0.05
BATCH_RECORDS: Final = 1_000
ATOMIC_BYTES: Final = 4096  # on Linux
CLOSE_SECONDS: Final = 1.0
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logging(level: str, log_format: LogFormat | None) -> None:
    """Write every record of `level` and above to standard error; by default as text on a terminal, else as JSON.

    Uncaught exceptions of any thread and Python's warnings become records too.
    """
    chosen = log_format or ("text" if sys.stderr.isatty() else "json")
    handler = BackgroundHandler(functools.partial(write_completely, sys.stderr.fileno()))
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The default form of a warning has a second line with the source code.
    warnings.formatwarning = _warning_line
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda uncaught: _log_uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)


class BackgroundHandler(logging.Handler):
    """Collects records; a thread formats and writes them, many at a time.

    A thread that is woken for each record takes as long as the rest of a short request. So the thread sleeps for
    `BATCH_SECONDS` after the first record, and one call writes all that have arrived by then. If `QUEUE_CAPACITY`
    records wait, further ones are dropped and counted.

    Args:
        write: writes lines completely; it may block.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write
        self._records: deque[logging.LogRecord] = deque()
        self._dropped = 0
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record for the thread, without waiting."""
        if len(self._records) >= QUEUE_CAPACITY:
            self._dropped += 1
            return
        self._records.append(record)
        if not self._arrived.is_set():
            self._arrived.set()

    def close(self) -> None:
        """Write the records that wait; those not written within `CLOSE_SECONDS` are lost."""
        self._closing.set()
        self._arrived.set()
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._arrived.wait()
            self._closing.wait(BATCH_SECONDS)
            self._arrived.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        while self._records:
            count = min(len(self._records), BATCH_RECORDS)
            self._write(b"".join([self._line(self._records.popleft()) for _ in range(count)]))
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            message = f"{dropped} log lines were dropped: standard error was not read in time"
            fields = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "msg": message}
            self._write(self._line(logging.makeLogRecord(fields)))

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            return f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return b""


def write_completely(descriptor: int, content: bytes) -> None:
    """Write bytes to a file descriptor, without a buffer or a lock that a blocked write could hold at exit.

    Bytes are lost if nobody can read them any more.
    """
    with contextlib.suppress(OSError):
        while content:
            # Other workers write to the same pipe, which keeps so many bytes of one write together: end it with a line.
            end = content.rfind(b"\n", 0, ATOMIC_BYTES) + 1 or content.find(b"\n") + 1 or len(content)
            content = content[os.write(descriptor, content[:end]) :]


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

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; one with fields and nothing else, as every request has, in a third of the time."""
        fields = getattr(record, FIELDS, None)
        if not fields or record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        content = {"time": time, "level": record.levelname.lower(), "logger": record.name, **fields}
        try:
            return orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate
            return super().format(record)

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
