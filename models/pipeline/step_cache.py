"""Steps that are done once: each writes a folder whose name is a digest of all that the step depends on.

A step works in a temporary folder that survives a kill, so that the step can resume there. When the step is done, the
folder gets its final name. A folder with a final name holds the whole result.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from sparserve.models.encoders.checkpoint import Checkpoint, resolve_checkpoint
from sparserve.models.errors import EnvironmentFault, SparserveError
from sparserve.models.files import faults_explained, settle
from sparserve.models.pipeline.estimate import Costs
from sparserve.models.progress import Reporter
from sparserve.models.types import Progress

KEY_LENGTH = 16


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a job: a name for people, the values that decide its result, and the work that makes it."""

    name: str
    inputs: Mapping[str, Any]
    build: Callable[[Path, "Context"], None]
    """Write the result into a folder, which holds the files that a killed run has left there."""
    estimate: Callable[[Costs], float] = lambda costs: 0.0
    """Return the expected seconds of the work."""
    needs: tuple["Step", ...] = ()
    """The steps whose results the work reads."""

    @cached_property
    def key(self) -> str:
        """Digest of the step's name and inputs."""
        return digest_of(self.name, self.inputs)

    @property
    def folder_name(self) -> str:
        """Name of the step's folder."""
        return f"{self.name.replace(' ', '-')}-{self.key}"


@dataclass(frozen=True)
class Workspace:
    """The folder that holds the results of steps."""

    root: Path

    def path(self, step: Step) -> Path:
        """Return the folder of the step's result, which may not exist yet."""
        return self.root / step.folder_name

    def has(self, step: Step) -> bool:
        """Return True if the step is done."""
        return self.path(step).is_dir()


class Context:
    """One run in a workspace: builds the results that are missing, and reads each result once.

    A step's `build` gets it for the results of earlier steps and to report its progress.
    """

    def __init__(self, workspace: Workspace, reporter: Reporter) -> None:
        self.workspace = workspace
        self.reporter = reporter
        self._results: dict[str, Path] = {}
        self._checkpoints: dict[str, Checkpoint] = {}

    @property
    def progress(self) -> Progress:
        """Function that takes the progress of the step that runs."""
        return self.reporter.advance

    def result(self, step: Step) -> Path:
        """Return the folder of a step's result; build it, and before it the steps that it needs, if it is missing.

        A result that exists is taken as it is: the results that it was made from may be gone.

        Raises:
            EnvironmentFault: the disk is full, the folder cannot be written, or another run works on this step.
            SparserveError: the work failed; the exception's `step` names the step.
        """
        if step.folder_name not in self._results and self.workspace.has(step):
            self.reporter.end(step.name, cached=True, seconds=0.0)
        return self._resolve(step)

    def checkpoint(self, step: Step, name: str) -> Checkpoint:
        """Return the network that a step made, under the name of the checkpoint that it comes from."""
        if step.folder_name not in self._checkpoints:
            self._checkpoints[step.folder_name] = resolve_checkpoint(str(self.result(step)), name=name)
        return self._checkpoints[step.folder_name]

    def _resolve(self, step: Step) -> Path:
        if step.folder_name not in self._results:
            target = self.workspace.path(step)
            if not target.is_dir():
                for needed in step.needs:
                    self._resolve(needed)
                self._build(step, target)
            self._results[step.folder_name] = target
        return self._results[step.folder_name]

    def _build(self, step: Step, target: Path) -> None:
        root = self.workspace.root
        try:
            with faults_explained(root):
                root.mkdir(parents=True, exist_ok=True)
                working = root / f".{step.folder_name}.unfinished"
                with _exclusive(root / f".{step.folder_name}.lock", step):
                    self.reporter.begin(step.name)
                    began = time.monotonic()
                    working.mkdir(exist_ok=True)
                    step.build(working, self)
                    settle(working, target)
                    self.reporter.end(step.name, cached=False, seconds=time.monotonic() - began)
        except SparserveError as error:
            error.step = error.step or step.name
            raise


def digest_of(name: str, inputs: Mapping[str, Any]) -> str:
    """Return a short digest of a name and of inputs: JSON values and parts of recipes."""
    canonical = json.dumps([name, inputs], sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


@contextmanager
def _exclusive(path: Path, step: Step) -> Iterator[None]:
    lock = FileLock(path, timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise EnvironmentFault(
            f"another run is working on the step {step.name!r} in {path.parent}: wait for it, or give another --work"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be part of a step's key")
