"""The bundles that are served: which are loaded, which are still loading, which were refused and why.

The store is read again every now and then. A new version is opened, verified, loaded and warmed up aside; only then do
requests get it, while those that the old one has admitted are still answered by it. A version that is refused changes
nothing: the old one stays.
"""

import logging
import threading
from collections.abc import Iterator
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
    """A bundle that is not served, and why; `seen` is what its folder was like then."""

    task: str
    variant: str
    version: str | None
    reason: str
    seen: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Contents:
    """What the catalog holds at one moment; replaced as a whole, so that a reader never sees half a change.

    A variant may be served and refused at once: an older version serves, the newer one was refused.
    """

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


@dataclass(frozen=True)
class _Wanted:
    """What the store says should be served: the version of each variant, the tasks' defaults, and what is damaged."""

    versions: dict[Key, str]
    defaults: dict[str, str]
    damaged: dict[Key, str]


class Catalog:
    """Serves the current version of every variant of a store, or the version that is pinned."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._store = Store(settings.store)
        self._closing = threading.Event()
        self._refreshing = threading.Lock()
        self.contents = Contents()

    def watch(self) -> None:
        """Refresh every few seconds until the catalog is closed; for a thread of its own."""
        while not self._closing.wait(self._settings.watch_seconds or None):
            self.refresh()

    def close(self) -> None:
        """Stop loading after the bundle that is being loaded."""
        self._closing.set()

    def refresh(self) -> None:
        """Make what is served what the store says; takes seconds, so run it off the event loop."""
        with self._refreshing:
            try:
                wanted = self._read()
            except (OSError, ValueError) as error:
                self._unreadable(f"the store {self._settings.store} cannot be read: {error}")
                return
            self._metrics.store_readable.set(1)
            before = self.contents
            todo = sorted(self._changed(wanted), key=lambda key: wanted.defaults[key[0]] != key[1])
            every = wanted.versions.keys() | wanted.damaged.keys()
            self.contents = replace(
                before,
                defaults=self._defaults(wanted, before),
                engines={key: engine for key, engine in before.engines.items() if key in every},
                refused={key: refusal for key, refusal in before.refused.items() if key in every and key not in todo},
                loading=tuple(key for key in todo if key not in before.engines),
                fault=None,
            )
            for key, reason in wanted.damaged.items():
                self._refuse(Refusal(*key, None, reason))
            for key in todo:
                if self._closing.is_set():
                    return
                self._load(key, wanted.versions[key])
            self.contents = replace(self.contents, defaults=self._defaults(wanted, self.contents))
            self._describe()

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
        missing = [
            (task, variant) for task, variant in contents.defaults.items() if (task, variant) not in contents.engines
        ]
        for key in sorted(missing):
            if refusal := contents.refused.get(key):
                return f"{'/'.join(key)}, the task's default, was refused: {refusal.reason}"
        return f"still loading: {_listed(sorted('/'.join(key) for key in missing))}" if missing else None

    def _read(self) -> _Wanted:
        root, store = self._settings.store, self._store
        if not root.is_dir():
            raise OSError("it does not exist: publish a bundle there")
        tasks = store.tasks()
        if not tasks:
            raise OSError("it holds no bundle: publish one")
        wanted = _Wanted({}, {task: store.default_variant(task) for task in tasks}, {})
        for key in ((task, variant) for task in tasks for variant in store.variants(task)):
            try:
                wanted.versions[key] = self._settings.pins.get("/".join(key)) or store.current(*key)
            except StoreError as error:
                wanted.damaged[key] = str(error)
        return wanted

    def _unreadable(self, fault: str) -> None:
        """What is served goes on without the store; with nothing to serve, the fault is what clients are told."""
        self._metrics.store_readable.set(0)
        if not self.contents.engines:
            if fault != self.contents.fault:
                logger.error("%s", fault)
            self.contents = Contents(fault=fault)
        elif not self._closing.is_set():
            logger.error("%s; what is loaded is still served", fault)

    def _changed(self, wanted: _Wanted) -> Iterator[Key]:
        """Variants of which another version is wanted than is served, but those that were refused as they are now."""
        for key, version in wanted.versions.items():
            engine, refusal = self.contents.engines.get(key), self.contents.refused.get(key)
            if engine and engine.manifest.version == version:
                continue
            if refusal and refusal.version == version and refusal.seen == self._seen(key, version):
                continue
            yield key

    def _defaults(self, wanted: _Wanted, contents: Contents) -> dict[str, str]:
        """The store's default variants; where one cannot answer yet, the one that did before goes on to."""
        found = {}
        for task, variant in wanted.defaults.items():
            before = contents.defaults.get(task)
            stays = (
                before is not None and (task, before) in contents.engines and (task, variant) not in contents.engines
            )
            found[task] = before if stays and before is not None else variant
        return found

    def _load(self, key: Key, version: str) -> None:
        task, variant = key
        seen = self._seen(key, version)
        try:
            bundle = self._store.open(task, variant, version)
            self._check_memory(key, bundle.model_path.stat().st_size)
            engine = load_engine(
                bundle,
                threads=self._settings.threads_per_inference,
                sample_tolerance=self._settings.sample_tolerance,
                runtime=self._settings.runtime,
            )
        except (BundleError, StoreError) as error:
            self._refuse(Refusal(task, variant, version, str(error), seen))
        except Exception as error:  # one bad bundle must not keep the others from serving
            logger.exception("%s/%s cannot be loaded", task, variant)
            reason = f"it cannot be loaded: {type(error).__name__}: {error}"
            self._refuse(Refusal(task, variant, version, reason, seen))
        else:
            before = self.contents
            refused = {other: refusal for other, refusal in before.refused.items() if other != key}
            self.contents = replace(
                before, engines={**before.engines, key: engine}, loading=_without(before.loading, key), refused=refused
            )
            logger.info("serving %s/%s version %s, runtime %s", task, variant, version, engine.runtime)

    def _check_memory(self, key: Key, size: int) -> None:
        limit = self._settings.max_model_bytes
        # The version that it takes the place of is in memory until its last request is answered.
        used = sum(engine.loaded.bundle.model_path.stat().st_size for engine in self.contents.engines.values())
        if limit is not None and used + size > limit:
            raise StoreError(
                f"its graph has {size:,} bytes, and {used:,} of the {limit:,} that all graphs may have are taken: "
                "raise max_model_bytes, or remove variants from the store"
            )

    def _seen(self, key: Key, version: str) -> tuple[tuple[str, int, int], ...]:
        """Name, size and time of every file of a bundle: what was refused is tried again once these differ."""
        folder = self._store.folder(*key, version)
        found = []
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            try:
                state = path.stat()
            except OSError:
                continue
            found.append((str(path.relative_to(folder)), state.st_size, state.st_mtime_ns))
        return tuple(found)

    def _refuse(self, refusal: Refusal) -> None:
        key = (refusal.task, refusal.variant)
        # The log names the place on this machine; a client only needs the place in the store.
        told = replace(refusal, reason=refusal.reason.replace(f"{self._settings.store}/", ""))
        if self.contents.refused.get(key) != told:
            logger.error("refused %s/%s: %s", refusal.task, refusal.variant, refusal.reason)
        loading = _without(self.contents.loading, key)
        self.contents = replace(self.contents, loading=loading, refused={**self.contents.refused, key: told})

    def _describe(self) -> None:
        """Tell the metrics what is served now."""
        contents = self.contents
        self._metrics.refused.set(len(contents.refused))
        self._metrics.model_info.clear()
        for (task, variant), engine in contents.engines.items():
            self._metrics.model_info.labels(task, variant, engine.manifest.version, engine.runtime).set(1)


def _without(keys: tuple[Key, ...], key: Key) -> tuple[Key, ...]:
    return tuple(other for other in keys if other != key)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
