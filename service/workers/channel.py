"""Messages between the supervisor and a worker: lines of JSON over a socket that no other process has.

A message may ask for an answer. It is handled by a method of the receiver's `handlers`: a function is called
in the order of arrival, a coroutine runs beside the others. Errors of the service travel by the name of their class.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from sparserve.service import errors
from sparserve.service.errors import ServiceError, Unavailable

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 64 * 2**20
# A receiver that hangs gets no more messages that are only told.
MAX_UNREAD_BYTES: Final = 8 * 2**20
Handlers = Mapping[str, Callable[..., Any]]


class ChannelClosed(Unavailable):
    """The process at the other end has ended."""


class Channel:
    """One end of a connection between two processes.

    Args:
        name: of the other process, for messages.
        handlers: by the kind of the message; its fields are the keyword arguments.
    """

    def __init__(self, name: str, handlers: Handlers) -> None:
        self.name = name
        self.closed = asyncio.Event()
        self._handlers = handlers
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, end: socket.socket) -> None:
        """Start to receive messages."""
        reader, self._writer = await asyncio.open_connection(sock=end, limit=MAX_MESSAGE_BYTES)
        self._start(self._receive(reader))

    def tell(self, kind: str, **fields: Any) -> bool:
        """Send a message; return False if the other process has ended or does not read."""
        writer = self._writer
        if writer is None or self.closed.is_set() or writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            return False
        self._send({"kind": kind, "fields": fields})
        return True

    async def ask(self, kind: str, **fields: Any) -> Any:
        """Send a message and return the answer.

        Raises:
            ChannelClosed: the other process has ended.
            ServiceError: as raised by the handler.
        """
        if self._writer is None or self.closed.is_set():
            raise self._ended()
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"kind": kind, "fields": fields, "number": number})
            return await answer
        finally:
            self._answers.pop(number, None)

    def close(self) -> None:
        """Close this end."""
        if self._writer is not None:
            self._writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line.endswith(b"\n"):  # else its sender ended meanwhile
                    self._handle(json.loads(line))
        except (OSError, ValueError) as error:
            logger.error("the channel to %s failed: %s", self.name, type(error).__name__)
        finally:
            self.closed.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(self._ended())
            self.close()

    def _handle(self, message: dict[str, Any]) -> None:
        if "answer" in message:
            answer = self._answers.get(message["answer"])
            if answer is not None and not answer.done():
                if "error" in message:
                    answer.set_exception(_error(message["error"], message["detail"]))
                else:
                    answer.set_result(message["result"])
            return
        handler, number = self._handlers[message["kind"]], message.get("number")
        try:
            result = handler(**message["fields"])
        except Exception as error:
            self._refuse(number, error)
            return
        if inspect.isawaitable(result):
            self._start(self._finish(result, number))
        else:
            self._answer(number, result)

    async def _finish(self, result: Any, number: int | None) -> None:
        try:
            self._answer(number, await result)
        except Exception as error:
            self._refuse(number, error)

    def _answer(self, number: int | None, result: Any) -> None:
        if number is not None:
            self._send({"answer": number, "result": result})

    def _refuse(self, number: int | None, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            logger.error("a message of %s was not handled", self.name, exc_info=error)
        if number is not None:
            self._send({"answer": number, "error": type(error).__name__, "detail": str(error)})

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _ended(self) -> ChannelClosed:
        return ChannelClosed(f"{self.name} ended meanwhile: try again")

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _error(name: str, detail: str) -> Exception:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, ServiceError):
        return kind(detail)
    if name == ChannelClosed.__name__:
        return Unavailable(detail)
    return RuntimeError(f"{name} in another process of the service; its log has the details")
