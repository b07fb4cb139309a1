"""What a run tells while it works: bars on a terminal, plain lines in a log, JSON lines for machines."""

import json
import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Receives what happens in a run."""

    def say(self, line: str) -> None:
        """A sentence for the user."""

    def begin(self, step: str) -> None:
        """A step begins."""

    def advance(self, done: int, total: int, note: str) -> None:
        """The step that began last has done this much; `note` is a few words."""

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """A step has ended, or was found in the cache."""

    def result(self, name: str, value: Any) -> None:
        """A result in machine-readable form."""


class TerminalReporter:
    """A progress bar for the step that runs, a line for each that ended."""

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
        """Results for machines are not shown to people."""


class PlainReporter:
    """Lines for a log: a step's progress at most every `interval` seconds."""

    def __init__(self, interval: float = 20.0) -> None:
        self._interval = interval
        self._last = time.monotonic()
        self._step = ""

    def say(self, line: str) -> None:
        """Print a line."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def begin(self, step: str) -> None:
        """Print that it begins."""
        self._step = step
        self._last = time.monotonic()
        self.say(f"{step} ...")

    def advance(self, done: int, total: int, note: str) -> None:
        """Print now and then."""
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self.say(f"{self._step}: {done}/{total} {note}".rstrip())

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Print how long it took."""
        self.say(_ended(step, cached, seconds))

    def result(self, name: str, value: Any) -> None:
        """Results for machines are not shown to people."""


class JsonReporter:
    """One JSON object a line on standard output, each with an `event`."""

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._last = 0.0
        self._step = ""

    def _write(self, event: str, **fields: Any) -> None:
        sys.stdout.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def say(self, line: str) -> None:
        """A `message`."""
        self._write("message", text=line)

    def begin(self, step: str) -> None:
        """A `begin`."""
        self._step = step
        self._write("begin", step=step)

    def advance(self, done: int, total: int, note: str) -> None:
        """A `progress`, at most one an interval."""
        now = time.monotonic()
        if now - self._last >= self._interval or done == total:
            self._last = now
            self._write("progress", step=self._step, done=done, total=total, note=note)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """An `end`."""
        self._write("end", step=step, cached=cached, seconds=round(seconds, 3))

    def result(self, name: str, value: Any) -> None:
        """A `result`."""
        self._write("result", name=name, value=value)


def make_reporter(*, json_lines: bool) -> Reporter:
    """Return the reporter for where the output goes: machines, a terminal, or a log."""
    if json_lines:
        return JsonReporter()
    console = Console()
    return TerminalReporter(console) if console.is_terminal else PlainReporter()


def _ended(step: str, cached: bool, seconds: float) -> str:
    return f"{step}: cached" if cached else f"{step}: done in {seconds:.1f} s"
