"""What log records look like, the service's and its libraries': a line of text each, or a JSON object a line.

A traceback says where and of which class an exception was, but not its message, which might repeat a text.
"""

import logging
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

import orjson

from sparserve.service.observability.log_output import Background, Descriptor

LogFormat = Literal["text", "json"]
# The attribute of a record, given by `extra`, that holds its fields; the JSON object has them in place of the message.
FIELDS: Final = "fields"
_ExceptionFacts = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logging(level: str, log_format: LogFormat | None) -> None:
    """Write every record of `level` and above to standard error; by default as text on a terminal and JSON elsewhere.

    Exceptions that nothing catches, in any thread, and Python's warnings become records too.
    """
    chosen = log_format or ("text" if sys.stderr.isatty() else "json")
    output = Descriptor(sys.stderr.fileno())
    output.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[Background(output)], force=True)
    logging.captureWarnings(True)
    # A warning's default form adds the source line that caused it: a second line, and noise.
    warnings.formatwarning = _warning_line
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda uncaught: _log_uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)


def where(error: BaseException) -> str:
    """The frames and classes of an exception and of its causes, the last first, without their messages."""
    parts: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        frames = "".join(traceback.format_tb(following.__traceback__))
        parts.append(f"{frames}{type(following).__qualname__}")
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\nafter\n".join(parts)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; the traceback of an exception on the lines after."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        record.asctime = self.formatTime(record)
        record.message = _message_of(record)
        error = _exception_of(record)
        return self.formatMessage(record) + (f"\n{where(error)}" if error else "")


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, then the record's fields, or its message where it has none."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **(getattr(record, FIELDS, None) or {"message": _message_of(record)}),
        }
        error = _exception_of(record)
        if error is not None:
            fields |= {"exception": type(error).__qualname__, "traceback": where(error)}
        # A lone surrogate in a library's message must not lose the record.
        return orjson.dumps(_encodable(fields), default=str).decode()


def _encodable(fields: dict[str, Any]) -> dict[str, Any]:
    clean = {}
    for name, value in fields.items():
        clean[name] = value.encode(errors="replace").decode() if isinstance(value, str) else value
    return clean


def _exception_of(record: logging.LogRecord) -> BaseException | None:
    facts: _ExceptionFacts | None = record.exc_info
    return facts[1] if facts else None


def _message_of(record: logging.LogRecord) -> str:
    """A record's message; with an exception its first line, because asyncio's others describe the exception itself."""
    message = record.getMessage()
    return message if _exception_of(record) is None else message.partition("\n")[0]


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{filename}:{lineno}: {category.__name__}: {message}"


def _log_uncaught(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) or error is None:
        return
    logging.getLogger("sparserve").critical("an exception that nothing caught", exc_info=(kind, error, where))
