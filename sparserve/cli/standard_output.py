"""Standard output that cannot be written: a full disk, a reader that has ended, a character that its encoding lacks."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from sparserve.models.errors import EnvironmentFault


class Descriptor(io.RawIOBase):
    """An open file for writing. After the first fault it discards what is written.

    The fault is raised once if `raises`, as an `EnvironmentFault`, and kept in `fault`.
    """

    def __init__(self, descriptor: int, name: str, *, raises: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._name = name
        self._raises = raises
        self.fault: EnvironmentFault | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return True for a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        """Write the data, or discard it after a fault.

        Raises:
            EnvironmentFault: the first write that failed.
        """
        if self.fault is None:
            try:
                return os.write(self._descriptor, data)
            except OSError as error:
                self.fault = EnvironmentFault(
                    f"{self._name} cannot be written ({error.strerror}): send it to another file or reader"
                )
                if self._raises:
                    raise self.fault from error
        return len(data)


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Run a program that writes to standard output; a fault of it becomes exit code 4 and one line.

    Characters that the encoding of the output lacks are written as escapes. Standard error has no other place to report
    its faults to, so they are ignored.
    """
    output = _checked(sys.stdout, 1, "standard output", raises=True)
    errors = _checked(sys.stderr, 2, "standard error", raises=False)
    if output is None or errors is None:  # replaced by the caller, who knows why
        yield
        return
    raw, sys.stdout = output
    _, sys.stderr = errors
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except EnvironmentFault as fault:
        if fault is not raw.fault:
            raise
        sys.stderr.write(f"sparserve: {fault}\n")
        raise SystemExit(fault.exit_code) from fault
    except SystemExit as end:
        # A handler of all errors caught the fault and continued without output.
        if raw.fault is not None and not end.code:
            raise SystemExit(raw.fault.exit_code) from end
        raise
    finally:
        sys.stderr.flush()


def write_utf8(text: str) -> None:
    """Write a document to standard output in UTF-8, whatever the encoding of a terminal is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _checked(stream: TextIO | None, descriptor: int, name: str, *, raises: bool) -> tuple[Descriptor, TextIO] | None:
    """Return a stream in place of a standard one, with its raw file; None if the stream is no file."""
    if stream is not None:  # None if the descriptor was closed at the start
        try:
            descriptor = stream.fileno()
            stream.flush()
        except (AttributeError, OSError, ValueError):
            return None
    raw = Descriptor(descriptor, name, raises=raises)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=not raises or raw.isatty(),
        write_through=getattr(stream, "write_through", False),
    )
    return raw, text
