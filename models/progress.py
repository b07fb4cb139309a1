"""Progress of a run: bars on a terminal, plain lines in a log, JSON lines for machines."""

import json
import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Receiver of the events of a run."""

    def say(self, line: str) -> None:
        """Report a sentence for the user."""

    def begin(self, step: str) -> None:
        """Report that a step begins."""

    def advance(self, done: int, total: int, note: str) -> None:
        """Report the progress of the step that began last; `note` is a few words."""

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Report that a step has ended, or was found in the cache."""

    def result(self, name: str, value: Any) -> None:
        """Report a result in machine-readable form."""


class TerminalReporter:
    """Reporter for a terminal: a progress bar for the running step, a line for each finished one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, highlight=False, markup=False)

    def begin(self, step: str) -> None:
        """Show a bar."""
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self._console)
        self._bar.start()
        self._task = self._bar.add_task(step, total=None, note="")

    def advance(self, done: int, total: int, note: str) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Replace the bar by a line."""
        if self._bar is not None:
            self._bar.update(self._task, visible=False)
            self._bar.stop()
            self._bar = None
        self.say(_ended(step, cached, seconds))

    def result(self, name: str, value: Any) -> None:
        """Ignore results, which are for machines."""


class PlainReporter:
    """Reporter for a log: lines, with a step's progress at most every `interval` seconds."""

    def __init__(self, interval: float = 20.0) -> None:
        self._interval = interval
        self._last = time.monotonic()
        self._step = ""

    def say(self, line: str) -> None:
        """Print a line."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def begin(self, step: str) -> None:
        """Print that the step begins."""
        self._step = step
        self._last = time.monotonic()
        self.say(f"{step} ...")

    def advance(self, done: int, total: int, note: str) -> None:
        """Print the progress if the interval has passed."""
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self.say(f"{self._step}: {done}/{total} {note}".rstrip())

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Print the duration."""
        self.say(_ended(step, cached, seconds))

    def result(self, name: str, value: Any) -> None:
        """Ignore results, which are for machines."""


class JsonReporter:
    """Reporter for machines: one JSON object per line on standard output, each with an `event`; ASCII alone."""

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._last = 0.0
        self._step = ""

    def _write(self, event: str, **fields: Any) -> None:
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()

    def say(self, line: str) -> None:
        """Write a `message`."""
        self._write("message", text=line)

    def begin(self, step: str) -> None:
        """Write a `begin`."""
        self._step = step
        self._write("begin", step=step)

    def advance(self, done: int, total: int, note: str) -> None:
        """Write a `progress`, at most one per interval."""
        now = time.monotonic()
        if now - self._last >= self._interval or done == total:
            self._last = now
            self._write("progress", step=self._step, done=done, total=total, note=note)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Write an `end`."""
        self._write("end", step=step, cached=cached, seconds=round(seconds, 3))

    def result(self, name: str, value: Any) -> None:
        """Write a `result`."""
        self._write("result", name=name, value=value)


def make_reporter(*, json_lines: bool) -> Reporter:
    """Return the reporter for JSON lines, for a terminal, or for a log."""
    if json_lines:
        return JsonReporter()
    console = Console()
    return TerminalReporter(console) if console.is_terminal else PlainReporter()


def _ended(step: str, cached: bool, seconds: float) -> str:
    return f"{step}: cached" if cached else f"{step}: done in {seconds:.1f} s"
