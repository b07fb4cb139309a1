"""Minutes of a run's steps, whatever interrupted them and whichever run was the first to need a step."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from sparserve.models.files import write_atomically
from sparserve.models.progress import PlainReporter

WRITTEN_EVERY_SECONDS = 10


class Stopwatch(PlainReporter):
    """Minutes that the given steps took, each over all tries of it that were interrupted.

    On a GPU by the clock; without one the processor's, which other programs of a shared machine do not make longer. A
    step's seconds are kept under its key: a run that finds it done by another one has its minutes, too.
    """

    def __init__(self, folder: Path, keys: Mapping[str, str]) -> None:
        """Count the steps with these titles, whose `keys` name the files."""
        super().__init__()
        self._paths = {title: folder / f"{key}.json" for title, key in keys.items()}
        self._running: Path | None = None
        self._seconds = 0.0
        self._since = 0.0
        self._written = time.monotonic()

    @property
    def minutes(self) -> float | None:
        """Of all the steps together; None where one is not known, as of steps that were done elsewhere."""
        kept = [_read(path) for path in self._paths.values()]
        if not all(one.get("ended") for one in kept):
            return None
        return round(sum(one["seconds"] for one in kept) / 60, 2)

    def begin(self, step: str) -> None:
        """Start, if the step counts: from what was counted until it was interrupted, or anew if it has ended since."""
        super().begin(step)
        self._running = self._paths.get(step)
        if self._running is not None:
            before = _read(self._running)
            self._seconds = 0.0 if before.get("ended") else before.get("seconds", 0.0)
            self._since = _now()

    def advance(self, done: int, total: int, note: str) -> None:
        """Keep what has been counted, every few seconds."""
        super().advance(done, total, note)
        if time.monotonic() - self._written > WRITTEN_EVERY_SECONDS:
            self._keep(ended=False)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Stop."""
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
    found: dict[str, float] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found
