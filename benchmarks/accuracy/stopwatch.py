"""Minutes of the steps of a run, over interruptions and over runs that share steps."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from sparserve.models.files import write_atomically
from sparserve.models.progress import PlainReporter

WRITTEN_EVERY_SECONDS = 10


class Stopwatch(PlainReporter):
    """Minutes of the given steps, each including its interrupted attempts.

    Wall-clock time on a GPU, processor time without one, because other programs on a shared machine do not prolong
    that. The seconds of a step are stored under its key, so that a run which reuses the step has its minutes too.
    """

    def __init__(self, folder: Path, keys: Mapping[str, str]) -> None:
        """Time the steps with these titles. The `keys` name the files."""
        super().__init__()
        self._paths = {title: folder / f"{key}.json" for title, key in keys.items()}
        self._running: Path | None = None
        self._seconds = 0.0
        self._since = 0.0
        self._written = time.monotonic()

    @property
    def minutes(self) -> float | None:
        """The minutes of all steps together, or None if one is unknown, such as a step from another machine."""
        records = [_read(path) for path in self._paths.values()]
        if not all(record.get("ended") for record in records):
            return None
        return round(sum(record["seconds"] for record in records) / 60, 2)

    def begin(self, step: str) -> None:
        """Start timing a step: at the stored seconds of an interrupted attempt, or at 0."""
        super().begin(step)
        self._running = self._paths.get(step)
        if self._running is not None:
            before = _read(self._running)
            self._seconds = 0.0 if before.get("ended") else before.get("seconds", 0.0)
            self._since = _now()

    def advance(self, done: int, total: int, note: str) -> None:
        """Store the seconds every few seconds."""
        super().advance(done, total, note)
        if time.monotonic() - self._written > WRITTEN_EVERY_SECONDS:
            self._keep(ended=False)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Stop timing and store the seconds, unless the step was cached."""
        super().end(step, cached=cached, seconds=seconds)
        if not cached:
            self._keep(ended=True)
        self._running = None

    def _keep(self, *, ended: bool) -> None:
        self._written, now = time.monotonic(), _now()
        if self._running is not None:
            self._seconds, self._since = self._seconds + now - self._since, now
            self._running.parent.mkdir(parents=True, exist_ok=True)
            content = {"seconds": round(self._seconds, 1), "ended": ended}
            write_atomically(self._running, json.dumps(content) + "\n")


def _now() -> float:
    return time.monotonic() if torch.cuda.is_available() else time.process_time()


def _read(path: Path) -> dict[str, float]:
    record: dict[str, float] = json.loads(path.read_bytes()) if path.is_file() else {}
    return record
