"""The state of the catalog at one moment."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from sparserve.service.errors import Unavailable, UnknownResource
from sparserve.service.inference.engine import Engine

# Task and variant.
ModelKey = tuple[str, str]
# Path, size and modification time in nanoseconds of each file of a bundle.
FileStates = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Refusal:
    """A bundle version that is not served, with the reason.

    `files` is the state of its files when it was refused. `other_graph_bytes` is the size of all loaded graphs at that
    time if the cause lies outside the bundle, else None.
    """

    task: str
    variant: str
    version: str | None
    reason: str
    files: FileStates = ()
    other_graph_bytes: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """Immutable content of the catalog. It is replaced as a whole, so a reader never sees a partial change.

    A variant can be both served and refused: an older version is served, the newer one was refused. `refused_tasks`
    has the reasons why tasks are refused as a whole; the variants that were loaded before are still served.
    """

    defaults: dict[str, str] = field(default_factory=dict)
    engines: dict[ModelKey, Engine] = field(default_factory=dict)
    loading: tuple[ModelKey, ...] = ()
    refused: dict[ModelKey, Refusal] = field(default_factory=dict)
    refused_tasks: dict[str, str] = field(default_factory=dict)
    unloaded: frozenset[ModelKey] = frozenset()
    fault: str | None = "the store has not been read yet"

    def tasks(self) -> list[str]:
        """Return the names of all tasks, loaded or not."""
        return sorted({task for task, _ in self._keys()} | self.refused_tasks.keys())

    def variants(self, task: str) -> list[str]:
        """Return the names of a task's variants, loaded or not; `dense` first."""
        names = {variant for name, variant in self._keys() if name == task}
        return sorted(names, key=lambda name: (name != "dense", name))

    def keys(self, task: str, variant: str | None = None) -> list[ModelKey]:
        """Return the key of one variant, or the keys of all variants of a task.

        Raises:
            UnknownResource: there is no such task or variant; the message lists the existing ones.
            Unavailable: the store could not be read, or the task's part of it.
        """
        if task not in self.tasks():
            if self.fault:
                raise Unavailable(f"no model is served: {self.fault}")
            raise UnknownResource(f"there is no task {task!r}; tasks: {join_names(self.tasks())}")
        variants = self.variants(task)
        if task in self.refused_tasks and (variant or self.defaults.get(task)) not in variants:
            raise Unavailable(f"{task} is not served, the task was refused: {self.refused_tasks[task]}")
        if variant is None:
            return [(task, name) for name in variants]
        if variant not in variants:
            known = join_names(variants)
            raise UnknownResource(f"task {task!r} has no variant {variant!r}; variants: {known}")
        return [(task, variant)]

    def engine(self, task: str, variant: str | None = None) -> Engine:
        """Return the engine of a variant, by default of the task's default variant.

        Raises:
            UnknownResource: there is no such task or variant; the message lists the existing ones.
            Unavailable: it is still loading, was refused, or was unloaded.
        """
        name = self.defaults.get(task, "") if variant is None else variant
        if engine := self.engines.get((task, name)):
            return engine
        self.keys(task, variant)
        key = (task, variant or self.defaults[task])
        name = "/".join(key)
        if key in self.unloaded:
            raise Unavailable(f"{name} was unloaded: load it again with POST /v2/repository/models/{task}/load")
        if refusal := self.refused.get(key):
            raise Unavailable(f"{name} is not served, its bundle was refused: {refusal.reason}")
        raise Unavailable(f"{name} is still loading: try again in a moment")

    def reason_not_ready(self) -> str | None:
        """Return why some task's default variant cannot answer, or None if all of them can.

        Variants that were unloaded on purpose do not count, as long as anything is served.
        """
        if self.fault:
            return self.fault
        for key in sorted(self.defaults.items()):
            if (engine := self.engines.get(key)) and not engine.health.healthy:
                return f"{'/'.join(key)}, the task's default, is failing repeatedly and will be reloaded"
        missing = [key for key in sorted(self.defaults.items()) if key not in self.engines and key not in self.unloaded]
        for key in missing:
            if refusal := self.refused.get(key):
                return f"{'/'.join(key)}, the task's default, was refused: {refusal.reason}"
        for task, reason in sorted(self.refused_tasks.items()):
            if task not in self.defaults or (task, self.defaults[task]) in missing:
                return f"the task {task} was refused: {reason}"
        if missing:
            return f"still loading: {join_names(['/'.join(key) for key in missing])}"
        return None if self.engines else "every model was unloaded: load one"

    def present_keys(self, tasks: Collection[str]) -> set[ModelKey]:
        """Return the keys of the loaded and the unloaded variants of some tasks."""
        return {key for key in {*self.engines, *self.unloaded} if key[0] in tasks}

    def next_defaults(self, desired: dict[str, str], refused: Collection[str]) -> dict[str, str]:
        """Return the desired default variants, but keep the present one of a task while the new one cannot answer.

        A refused task keeps its default variant while any of its variants is present.
        """
        present_tasks = {task for task, _ in self.present_keys(refused)}
        defaults = {task: variant for task, variant in self.defaults.items() if task in present_tasks}
        for task, variant in desired.items():
            present = self.defaults.get(task, variant)
            keep = (task, present) in self.engines and (task, variant) not in self.engines
            defaults[task] = present if keep else variant
        return defaults

    def _keys(self) -> set[ModelKey]:
        return {*self.engines, *self.loading, *self.refused, *self.unloaded}


def file_states(folder: Path) -> FileStates:
    """Return the state of every file of a bundle. A refused bundle is tried again once this differs."""
    states = []
    try:
        paths = sorted(folder.rglob("*"))
    except OSError:  # the folder is being deleted
        return ()
    for path in paths:
        with contextlib.suppress(OSError):
            state = path.stat()
            states.append((str(path.relative_to(folder)), state.st_size, state.st_mtime_ns))
    return tuple(states)


def join_names(names: list[str]) -> str:
    """Join names for a message."""
    return ", ".join(names) or "none"
