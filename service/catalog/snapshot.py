"""What is served at one moment, and what a client is told of a model that is not."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from sparserve.service.errors import Unavailable, UnknownResource
from sparserve.service.inference.engine import Engine

Key = tuple[str, str]


@dataclass(frozen=True)
class Refusal:
    """A bundle that is not served, and why; `seen` is what its folder was like then.

    `taken` are the bytes of all graphs that were loaded then, where the cause lies outside of the bundle.
    """

    task: str
    variant: str
    version: str | None
    reason: str
    seen: tuple[tuple[str, int, int], ...] = ()
    taken: int | None = None


@dataclass(frozen=True)
class Contents:
    """What the catalog holds at one moment; replaced as a whole, so that a reader never sees half a change.

    A variant may be served and refused at once: an older version serves, the newer one was refused.
    """

    defaults: dict[str, str] = field(default_factory=dict)
    engines: dict[Key, Engine] = field(default_factory=dict)
    loading: tuple[Key, ...] = ()
    refused: dict[Key, Refusal] = field(default_factory=dict)
    unloaded: frozenset[Key] = frozenset()
    fault: str | None = "the store has not been read yet"

    def tasks(self) -> list[str]:
        """Names of all tasks, loaded or not."""
        return sorted({task for task, _ in self._keys()})

    def variants(self, task: str) -> list[str]:
        """Names of a task's variants, loaded or not; `dense` first."""
        names = {variant for name, variant in self._keys() if name == task}
        return sorted(names, key=lambda name: (name != "dense", name))

    def keys(self, task: str, variant: str | None = None) -> list[Key]:
        """Task and name of one variant, or of all variants of a task.

        Raises:
            UnknownResource: there is no such task or variant; names those that exist.
            Unavailable: nothing is known of the store.
        """
        if task not in self.tasks():
            if self.fault:
                raise Unavailable(f"no model is served: {self.fault}")
            raise UnknownResource(f"there is no task {task!r}; the tasks are: {listed(self.tasks())}")
        if variant is None:
            return [(task, name) for name in self.variants(task)]
        if variant not in self.variants(task):
            known = listed(self.variants(task))
            raise UnknownResource(f"task {task!r} has no variant {variant!r}; its variants are: {known}")
        return [(task, variant)]

    def engine(self, task: str, variant: str | None = None) -> Engine:
        """The engine of a variant; of the task's default variant if none is named.

        Raises:
            UnknownResource: there is no such task or variant; names those that exist.
            Unavailable: it is still loading, was refused, or was unloaded.
        """
        if (task, variant) not in self.engines:
            self.keys(task, variant)
        key = (task, variant or self.defaults[task])
        if engine := self.engines.get(key):
            return engine
        name = "/".join(key)
        if key in self.unloaded:
            raise Unavailable(f"{name} was unloaded: POST /v2/repository/models/{task}/load takes it back into service")
        if refusal := self.refused.get(key):
            raise Unavailable(f"{name} is not served, its bundle was refused: {refusal.reason}")
        raise Unavailable(f"{name} is still loading: try again in a moment")

    def reason_not_ready(self) -> str | None:
        """Why not every task's default variant can answer; None when all have answered a warm-up request.

        What was unloaded on purpose is not waited for, as long as anything is served.
        """
        if self.fault:
            return self.fault
        for key in sorted(self.defaults.items()):
            if (engine := self.engines.get(key)) and not engine.health.healthy:
                return f"{'/'.join(key)}, the task's default, fails again and again: it will be loaded anew"
        missing = [key for key in sorted(self.defaults.items()) if key not in self.engines and key not in self.unloaded]
        for key in missing:
            if refusal := self.refused.get(key):
                return f"{'/'.join(key)}, the task's default, was refused: {refusal.reason}"
        if missing:
            return f"still loading: {listed(['/'.join(key) for key in missing])}"
        return None if self.engines else "every model was unloaded: load one"

    def next_defaults(self, wanted: dict[str, str]) -> dict[str, str]:
        """The store's default variants; where one cannot answer yet, the one that did before goes on to."""
        found = {}
        for task, variant in wanted.items():
            before = self.defaults.get(task, variant)
            stays = (task, before) in self.engines and (task, variant) not in self.engines
            found[task] = before if stays else variant
        return found

    def _keys(self) -> set[Key]:
        return {*self.engines, *self.loading, *self.refused, *self.unloaded}


def files_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file of a bundle: what was refused is tried again once these differ."""
    found = []
    try:
        paths = sorted(folder.rglob("*"))
    except OSError:  # it goes away meanwhile
        return ()
    for path in paths:
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((str(path.relative_to(folder)), state.st_size, state.st_mtime_ns))
    return tuple(found)


def listed(names: list[str]) -> str:
    """Names for a message."""
    return ", ".join(names) or "none"
