"""The bundles that are served: which are loaded, which are still loading, which were refused and why."""

import logging
import threading
from dataclasses import dataclass, field, replace

from models.errors import BundleError, StoreError
from models.store import Store
from service.engine import Engine
from service.errors import Unavailable, UnknownResource
from service.loading import load_engine
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger("service.catalog")

Key = tuple[str, str]


@dataclass(frozen=True)
class Refusal:
    """A bundle that is not served, and why."""

    task: str
    variant: str
    version: str | None
    reason: str


@dataclass(frozen=True)
class Contents:
    """What the catalog holds at one moment; replaced as a whole, so that a reader never sees half a change."""

    defaults: dict[str, str] = field(default_factory=dict)
    engines: dict[Key, Engine] = field(default_factory=dict)
    loading: tuple[Key, ...] = ()
    refused: dict[Key, Refusal] = field(default_factory=dict)
    fault: str | None = "the store has not been read yet"

    def tasks(self) -> list[str]:
        """Names of all tasks, loaded or not."""
        return sorted({task for task, _ in (*self.engines, *self.loading, *self.refused)})

    def variants(self, task: str) -> list[str]:
        """Names of a task's variants, loaded or not; `dense` first."""
        names = {variant for name, variant in (*self.engines, *self.loading, *self.refused) if name == task}
        return sorted(names, key=lambda name: (name != "dense", name))


class Catalog:
    """Loads the current version of every variant of a store, the tasks' default variants first."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._store = Store(settings.store)
        self._closing = threading.Event()
        self.contents = Contents()

    def load(self) -> None:
        """Open, verify, load and warm up; takes seconds, so run it off the event loop."""
        try:
            self.contents = self._plan()
        except (OSError, ValueError) as error:
            self.contents = Contents(fault=f"the store {self._settings.store} cannot be read: {error}")
        if self.contents.fault:
            logger.error("%s", self.contents.fault)
        for key in self.contents.loading:
            if self._closing.is_set():
                return
            self._load_one(key)

    def close(self) -> None:
        """Stop loading after the bundle that is being loaded."""
        self._closing.set()

    def engine(self, task: str, variant: str | None = None) -> Engine:
        """The engine of a variant; of the task's default variant if none is named.

        Raises:
            UnknownResource: there is no such task or variant; names those that exist.
            Unavailable: it is still loading, or it was refused.
        """
        contents = self.contents
        if task not in contents.tasks():
            if contents.fault:
                raise Unavailable(f"no model is served: {contents.fault}")
            raise UnknownResource(f"there is no task {task!r}; the tasks are: {_listed(contents.tasks())}")
        name = variant or contents.defaults[task]
        key = (task, name)
        if engine := contents.engines.get(key):
            return engine
        if refusal := contents.refused.get(key):
            raise Unavailable(f"{task}/{name} is not served, its bundle was refused: {refusal.reason}")
        if key in contents.loading:
            raise Unavailable(f"{task}/{name} is still loading: try again in a moment")
        raise UnknownResource(
            f"task {task!r} has no variant {name!r}; its variants are: {_listed(contents.variants(task))}"
        )

    def reason_not_ready(self) -> str | None:
        """Why not every task's default variant can answer; None when all have answered a warm-up request."""
        contents = self.contents
        if contents.fault:
            return contents.fault
        for task, variant in sorted(contents.defaults.items()):
            if refusal := contents.refused.get((task, variant)):
                return f"{task}/{variant}, the task's default, was refused: {refusal.reason}"
        loading = [
            f"{task}/{variant}" for task, variant in contents.defaults.items() if (task, variant) in contents.loading
        ]
        return f"still loading: {_listed(sorted(loading))}" if loading else None

    def _plan(self) -> Contents:
        root, store = self._settings.store, self._store
        if not root.is_dir():
            return Contents(fault=f"the store {root} does not exist: publish a bundle there, then start again")
        tasks = store.tasks()
        if not tasks:
            return Contents(fault=f"the store {root} holds no bundle: publish one, then start again")
        defaults = {task: store.default_variant(task) for task in tasks}
        keys = [(task, variant) for task in tasks for variant in store.variants(task)]
        return Contents(defaults, loading=tuple(sorted(keys, key=lambda key: defaults[key[0]] != key[1])), fault=None)

    def _load_one(self, key: Key) -> None:
        task, variant = key
        version = None
        try:
            version = self._store.current(task, variant)
            engine = load_engine(
                self._store.open(task, variant, version),
                threads=self._settings.threads_per_inference,
                sample_tolerance=self._settings.sample_tolerance,
                runtime=self._settings.runtime,
            )
        except (BundleError, StoreError) as error:
            self._refuse(Refusal(task, variant, version, str(error)))
        except Exception as error:  # one bad bundle must not keep the others from serving
            logger.exception("%s/%s cannot be loaded", task, variant)
            self._refuse(Refusal(task, variant, version, f"it cannot be loaded: {type(error).__name__}: {error}"))
        else:
            self._change(key, engines={**self.contents.engines, key: engine})
            self._metrics.model_info.labels(task, variant, version, engine.runtime).set(1)
            logger.info("serving %s/%s version %s, runtime %s", task, variant, version, engine.runtime)

    def _refuse(self, refusal: Refusal) -> None:
        logger.error("refused %s/%s: %s", refusal.task, refusal.variant, refusal.reason)
        # The log names the place on this machine; a client only needs the place in the store.
        told = replace(refusal, reason=refusal.reason.replace(f"{self._settings.store}/", ""))
        key = (refusal.task, refusal.variant)
        self._change(key, refused={**self.contents.refused, key: told})
        self._metrics.refused.inc()

    def _change(self, key: Key, **changes: dict[Key, Engine] | dict[Key, Refusal]) -> None:
        loading = tuple(other for other in self.contents.loading if other != key)
        self.contents = replace(self.contents, loading=loading, **changes)  # type: ignore[arg-type]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
