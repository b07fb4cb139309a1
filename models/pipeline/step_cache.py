"""Steps that are done once: each writes a folder whose name is a digest of all that the step depends on.

A step works in a folder of its own that survives a kill, so that it can go on from there; when it is done, the folder
gets its final name. Whoever finds the final name has all of the step's result.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from sparserve.models.errors import EnvironmentFault
from sparserve.models.files import faults_explained, settle
from sparserve.models.progress import Reporter

KEY_LENGTH = 16


@dataclass(frozen=True)
class Step:
    """One step of a run: its title for people, and what its result depends on."""

    title: str
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Digest of the step's kind and inputs."""
        canonical = json.dumps([self.title, self.inputs], sort_keys=True, default=_plain, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def folder_name(self) -> str:
        """Name of the step's folder."""
        return f"{self.title.replace(' ', '-')}-{self.key}"


@dataclass(frozen=True)
class Workspace:
    """The folder that holds the results of steps."""

    root: Path

    def path(self, step: Step) -> Path:
        """Where the step's result lies, or will lie."""
        return self.root / step.folder_name

    def has(self, step: Step) -> bool:
        """Whether the step is done."""
        return self.path(step).is_dir()

    def run(self, step: Step, build: Callable[[Path], None], reporter: Reporter) -> Path:
        """Return the folder of the step's result, building it if it is not there.

        `build` gets a working folder, which holds what an earlier, killed try has left.

        Raises:
            EnvironmentFault: the disk is full, the folder cannot be written, or another run works on this step.
        """
        target = self.path(step)
        if target.is_dir():
            reporter.end(step.title, cached=True, seconds=0.0)
            return target
        with faults_explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            working = self.root / f".{step.folder_name}.unfinished"
            with _alone(self.root / f".{step.folder_name}.lock", step):
                reporter.begin(step.title)
                began = time.monotonic()
                working.mkdir(exist_ok=True)
                build(working)
                settle(working, target)
                reporter.end(step.title, cached=False, seconds=time.monotonic() - began)
        return target


@contextmanager
def _alone(path: Path, step: Step) -> Iterator[None]:
    lock = FileLock(path, timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise EnvironmentFault(
            f"another run is working on the step {step.title!r} in {path.parent}: wait for it, or give another --work"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be part of a step's key")
