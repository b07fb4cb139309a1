"""The catalog of served models: it loads what the store asks for, and changes it on request.

The store is polled. A new version is opened, verified, loaded and warmed up in the background; only then do requests
get it, while requests that the old version has admitted are still answered by it. A refused version changes nothing:
the old one stays.
"""

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Final

from sparserve.models.bundle.store import Store, is_version
from sparserve.models.errors import BundleError, SparserveError, StoreError
from sparserve.service.catalog.bundle_loader import BundleLoader
from sparserve.service.catalog.desired_state import DesiredState, read_desired_state
from sparserve.service.catalog.mirror import Mirror
from sparserve.service.catalog.mirror_thread import MirrorThread
from sparserve.service.catalog.overrides import CatalogChange, CatalogOverrides
from sparserve.service.catalog.snapshot import ModelKey, Refusal, Snapshot, join_names
from sparserve.service.errors import InvalidRequest, Unavailable
from sparserve.service.inference.engine import Engine
from sparserve.service.observability.metrics import Metrics

logger = logging.getLogger(__name__)

# Interval of the check for failing engines when the store is not polled.
HEALTH_CHECK_SECONDS: Final = 30.0


class Catalog:
    """Serves the current or the pinned version of every variant of a store.

    Methods that change what is served take as long as loading does, seconds. Call them off the event loop.

    Args:
        store: the local store.
        loader: loads its bundles.
        url: fsspec URL of a store to mirror into the local one.
        pins: versions to serve instead of the current ones, by `task/variant`.
        watch_seconds: interval between two polls of the store; 0 polls it once.
        metrics: gets the state of the store and of the loaded bundles.

    Attributes:
        follows: True while another process of the service mirrors the URL into the store; this one reads it.

    Raises:
        StoreError: the URL cannot be read by an installed package.
    """

    def __init__(
        self,
        store: Store,
        *,
        loader: BundleLoader,
        url: str | None = None,
        pins: Mapping[str, str],
        watch_seconds: float,
        metrics: Metrics,
    ) -> None:
        self.store = store
        self.loader = loader
        self.snapshot = Snapshot()
        self.overrides = CatalogOverrides()
        self.follows = False
        self.loaded: Future[None] = Future()  # done when every bundle has been served or refused
        self._metrics = metrics
        self._watch_seconds = watch_seconds
        names = {name: name.partition("/") for name in pins}
        self._pins = {(task, variant): pins[name] for name, (task, _, variant) in names.items()}
        self._lock = threading.RLock()  # held while the snapshot changes, possibly for seconds
        self._closing = threading.Event()
        self._fault: str | None = None
        self._misnamed: frozenset[Path] = frozenset()
        self._failures: dict[str, type[Exception]] = {}
        self._mirror: MirrorThread | None = None
        if url:
            self._mirror = MirrorThread(
                Mirror(url, store), seconds=watch_seconds, required=self._required_versions, synced=self._mirror_synced
            )

    def engine(self, task: str, variant: str | None = None) -> Engine:
        """Return the engine of a variant, by default of the task's default variant.

        Raises:
            UnknownResource, Unavailable: as in `Snapshot.engine`.
        """
        return self.snapshot.engine(task, variant)

    def reason_not_ready(self) -> str | None:
        """Return why some task's default variant cannot answer, or None if all of them can."""
        return self.snapshot.reason_not_ready()

    def watch(self) -> None:
        """Poll the store until the catalog is closed; runs on its own thread.

        The folder of a mirror is read after each sync instead. Failing engines are reloaded in any case.
        """
        self._attempt(self.sync)
        if self._active_mirror:
            self._active_mirror.begin()
        else:
            self.loaded.set_result(None)
        while not self._closing.wait(self._watch_seconds or HEALTH_CHECK_SECONDS):
            if self._watch_seconds and not self._active_mirror:
                self._attempt(self.sync)
            self._attempt(self.reload_failing)

    def lead(self) -> None:
        """Mirror the URL in place of the process that did."""
        if self.follows:
            self.follows = False
            if self._mirror:
                self._mirror.begin()

    def apply(self, change: CatalogChange) -> CatalogChange:
        """Make a change; return it as the other processes of the service have to make it.

        Raises:
            UnknownResource, Unavailable, InvalidRequest: as in the method of that name.
        """
        task, variant = change.task, change.variant
        if change.action == "refresh":
            self.refresh()
        elif change.action == "load":
            self.load(task, variant)
        elif change.action == "unload":
            self.unload(task, variant)
        elif variant is None:
            raise InvalidRequest(f"{change.action} needs a variant")
        elif change.action == "unpin":
            self.unpin(task, variant)
        elif change.action == "default":
            self.make_default(task, variant)
            return CatalogChange("refresh")
        else:
            if change.action == "pin":
                self.pin(task, variant, change.version or "")
            else:
                version = self.rollback(task, variant).manifest.version
                return replace(change, action="pin", version=version)
        return change

    def adopt(self, overrides: CatalogOverrides) -> None:
        """Replace the changes that were made here by those of the whole service."""
        with self._lock:
            self._override(overrides)
            self.sync()

    def close(self, seconds: float) -> None:
        """Stop loading. Wait at most `seconds` for a bundle that is being loaded, because an exit would abort it."""
        self._closing.set()
        if self._mirror:
            self._mirror.close()
        if self._lock.acquire(timeout=seconds):
            self._lock.release()

    def refresh(self) -> None:
        """Sync with the store now; if it mirrors a URL, with the URL first, unless that takes too long."""
        if self._active_mirror:
            with contextlib.suppress(TimeoutError):
                self._active_mirror.sync()
        self.sync()
        self.reload_failing()

    def sync(self, retried: Collection[ModelKey] = ()) -> None:
        """Serve what the folder of the store asks for; `retried` models are tried even if they were refused."""
        with self._lock:
            try:
                desired = read_desired_state(self.store, {**self._pins, **self.overrides.pins})
            except (OSError, ValueError, StoreError) as error:
                self._store_unreadable(f"the store {self.store.root} cannot be read: {error}")
                return
            self._store_readable()
            before = self.snapshot
            known = desired.versions.keys() | desired.damaged.keys() | before.present_keys(desired.refused)
            active = known - self.overrides.unloaded
            engines = {key: engine for key, engine in before.engines.items() if key in active}
            changed = self._changed(desired, engines, retried)
            pending = sorted(changed, key=lambda key: desired.defaults[key[0]] != key[1])  # default variants first
            self.snapshot = replace(
                before,
                defaults=before.next_defaults(desired.defaults, desired.refused),
                engines=engines,
                # A refusal is kept only while its version is the desired one.
                refused={
                    key: refusal
                    for key, refusal in before.refused.items()
                    if key in active and key not in pending and refusal.version == desired.versions.get(key)
                },
                refused_tasks=self._refused_tasks(desired),
                loading=tuple(key for key in pending if key not in engines),
                unloaded=frozenset(known & self.overrides.unloaded),
                fault=None,
            )
            for key in active & desired.damaged.keys():
                self._refuse(Refusal(*key, None, desired.damaged[key]))
            for key in pending:
                if self._closing.is_set():
                    return
                self._load(key, desired.versions[key])
            defaults = self.snapshot.next_defaults(desired.defaults, desired.refused)
            self.snapshot = replace(self.snapshot, defaults=defaults)
            self._publish_metrics()

    def reload_failing(self) -> None:
        """Reload the engines that are failing repeatedly."""
        with self._lock:
            for key, engine in self.snapshot.engines.items():
                if not self._closing.is_set() and engine.health.reload_due():
                    self._load(key, engine.manifest.version)
                    self._publish_metrics()

    def pin(self, task: str, variant: str, version: str) -> Engine:
        """Serve this version of a variant until it is unpinned or the process ends, whatever the store says.

        Raises:
            UnknownResource: there is no such task or variant.
            Unavailable: the store could not be read, or the version has not arrived from the URL yet.
            InvalidRequest: there is no such version, or it is refused; the served version stays.
        """
        (key,) = self.snapshot.keys(task, variant)
        self._fetch(key, version)
        with self._lock:
            versions = self.store.versions(*key)
            if version not in versions:
                raise InvalidRequest(f"{task}/{variant} has no version {version!r}; versions: {join_names(versions)}")
            before = self.overrides
            self._override(replace(before, pins={**before.pins, key: version}, unloaded=before.unloaded - {key}))
            self.sync()
            engine, refusal = self.snapshot.engines.get(key), self.snapshot.refused.get(key)
            if engine and engine.manifest.version == version:
                return engine
            self._override(before)
            self.sync()
        reason = refusal.reason if refusal else "the store cannot be read now"
        raise InvalidRequest(f"{task}/{variant} version {version} is refused: {reason}; the served version stays")

    def rollback(self, task: str, variant: str) -> Engine:
        """Pin the version that was published before the served one.

        Raises:
            UnknownResource, Unavailable: as in `pin` and `engine`.
            InvalidRequest: there is none, or it is refused; the served version stays.
        """
        served = self.engine(task, variant).manifest.version
        try:
            previous = self.store.version_before(task, variant, served, self._published_at_url(task, variant))
        except StoreError as error:
            raise InvalidRequest(str(error)) from error
        return self.pin(task, variant, previous)

    def unpin(self, task: str, variant: str) -> Engine:
        """Serve again the version that the store or the settings ask for.

        Raises:
            UnknownResource, Unavailable: as in `engine`.
        """
        with self._lock:
            (key,) = self.snapshot.keys(task, variant)
            pins = {other: version for other, version in self.overrides.pins.items() if other != key}
            self._override(replace(self.overrides, pins=pins))
            self.sync()
            return self.engine(task, variant)

    def unload(self, task: str, variant: str | None = None) -> None:
        """Take a variant, or all present variants of a task, out of service until it is loaded again.

        Raises:
            UnknownResource, Unavailable: as in `Snapshot.keys`.
        """
        with self._lock:
            keys = self.snapshot.keys(task, variant)
            self._override(replace(self.overrides, unloaded=self.overrides.unloaded.union(keys)))

    def load(self, task: str, variant: str | None = None) -> None:
        """Take a variant, or all variants of a task, into service; a refused version is tried once more.

        Raises:
            UnknownResource, Unavailable: as in `engine`.
        """
        with self._lock:
            self.sync()
            keys = self.snapshot.keys(task, variant)
            self._override(replace(self.overrides, unloaded=self.overrides.unloaded.difference(keys)))
            self.sync(retried=keys)
            for key in keys:
                self.engine(*key)

    def make_default(self, task: str, variant: str) -> None:
        """Make this variant the default of its task in the store, so for every process that serves the store.

        Raises:
            UnknownResource, Unavailable: as in `engine`.
            InvalidRequest: the store is a mirror, or cannot be written.
        """
        with self._lock:
            self.engine(task, variant)
            command = f"`sparserve bundles default {task} {variant}`"
            if self._mirror:
                place = self._mirror.place
                raise InvalidRequest(f"the store mirrors {place}: run {command} on the original store and upload it")
            try:
                self.store.set_default_variant(task, variant)
            except (SparserveError, OSError) as error:
                logger.error("the default variant of %s was not changed: %s", task, error)
                raise InvalidRequest(f"the service cannot write to the store: run {command} where it can") from error
            self.sync()

    def _override(self, overrides: CatalogOverrides) -> None:
        """Set the overrides. Unloaded variants stop at once; pins take effect at the next sync."""
        self.overrides, before = overrides, self.snapshot
        unloaded = overrides.unloaded & {*before.engines, *before.loading, *before.refused}
        self.snapshot = replace(
            before,
            engines={key: engine for key, engine in before.engines.items() if key not in overrides.unloaded},
            loading=tuple(key for key in before.loading if key not in unloaded),
            refused={key: refusal for key, refusal in before.refused.items() if key not in unloaded},
            unloaded=before.unloaded | unloaded,
        )
        self._publish_metrics()

    @property
    def _active_mirror(self) -> MirrorThread | None:
        return None if self.follows else self._mirror

    def _attempt(self, action: Callable[[], None]) -> None:
        """Call a method and log any exception: if the thread ended, the store would not be watched any more."""
        try:
            action()
        except Exception as error:
            if self._failures.get(action.__name__) is not type(error):  # once, not at every poll
                logger.exception("the store %s could not be read", self.store.root)
            self._failures[action.__name__] = type(error)
            self._metrics.store.readable.set(0)
        else:
            self._failures.pop(action.__name__, None)

    def _fetch(self, key: ModelKey, version: str) -> None:
        """Copy a version that only the URL has into the local store."""
        mirror = self._active_mirror
        if mirror is None or not is_version(version) or self.store.folder(*key, version).is_dir():
            return
        name = f"{'/'.join(key)} version {version}"
        try:
            mirror.fetch(*key, version)
        except TimeoutError as error:
            raise Unavailable(f"{name} has not arrived yet, {error}: try again in a moment") from error
        except (BundleError, OSError) as error:
            raise InvalidRequest(f"{name} cannot be fetched: {error}; the served version stays") from error

    def _published_at_url(self, task: str, variant: str) -> dict[str, float]:
        """Return the publication time of each version at the URL; empty without one, or if it cannot be read."""
        try:
            return self._active_mirror.published(task, variant) if self._active_mirror else {}
        except OSError as error:  # includes TimeoutError
            logger.warning("%s; only mirrored versions can be rolled back to", error)
            return {}

    def _required_versions(self) -> dict[ModelKey, set[str]]:
        """Return the versions that a mirror must have besides the current ones."""
        required: dict[ModelKey, set[str]] = defaultdict(set)
        served = {key: engine.manifest.version for key, engine in self.snapshot.engines.items()}
        for versions in (self._pins, self.overrides.pins, served):
            for key, version in versions.items():
                required[key].add(version)
        return required

    def _mirror_synced(self) -> None:
        """React to a finished attempt to read the URL."""
        if self._mirror and self._mirror.fault is None:
            self._metrics.store.last_read.set_to_current_time()
        self._attempt(self.sync)
        if not self.loaded.done():
            self.loaded.set_result(None)

    def _store_readable(self) -> None:
        self._fault = None
        self._metrics.store.readable.set(self._active_mirror is None or self._active_mirror.fault is None)
        if not self._mirror:
            self._metrics.store.last_read.set_to_current_time()

    def _store_unreadable(self, fault: str) -> None:
        """Keep serving what is loaded; if nothing is, clients get the fault as the reason."""
        self._metrics.store.readable.set(0)
        if self._mirror and self._mirror.fault:  # already logged, or by the process that mirrors
            fault = self._mirror.fault
        elif fault != self._fault and not self._closing.is_set():  # once, not at every poll
            logger.error("%s%s", fault, "; loaded models are still served" if self.snapshot.engines else "")
        self._fault = fault
        if not self.snapshot.engines:
            self.snapshot = Snapshot(fault=fault)

    def _changed(
        self, desired: DesiredState, engines: Mapping[ModelKey, Engine], retried: Collection[ModelKey]
    ) -> Iterator[ModelKey]:
        """Yield the variants to load: another version is desired than is served, and no final refusal exists."""
        for key, version in desired.versions.items():
            engine, refusal = engines.get(key), self.snapshot.refused.get(key)
            if key in self.overrides.unloaded or (engine and engine.manifest.version == version):
                continue
            refused = refusal and refusal.version == version and self.loader.is_final(refusal, engines)
            if not refused or key in retried:
                yield key

    def _load(self, key: ModelKey, version: str) -> None:
        result = self.loader.load(key, version, self.snapshot.engines)
        if isinstance(result, Refusal):
            self._refuse(result)
            return
        before = self.snapshot
        self.snapshot = replace(
            before,
            engines={**before.engines, key: result},
            loading=_without(before.loading, key),
            refused={other: refusal for other, refusal in before.refused.items() if other != key},
        )
        logger.info("serving %s/%s version %s, runtime %s", *key, version, result.runtime)

    def _refuse(self, refusal: Refusal) -> None:
        key = (refusal.task, refusal.variant)
        # The log shows paths of this machine; clients only see paths inside the store.
        public = replace(refusal, reason=self._without_root(refusal.reason))
        if self.snapshot.refused.get(key) != public:
            logger.error("refused %s/%s: %s", refusal.task, refusal.variant, refusal.reason)
        loading = _without(self.snapshot.loading, key)
        self.snapshot = replace(self.snapshot, loading=loading, refused={**self.snapshot.refused, key: public})

    def _refused_tasks(self, desired: DesiredState) -> dict[str, str]:
        """Log the refused tasks and the folders that are ignored, once; return the reasons as clients see them."""
        for folder in desired.misnamed:
            if folder not in self._misnamed:
                logger.warning("%s is not served: a task's name has 1 to 64 of a-z, 0-9, '.', '_' and '-'", folder)
        self._misnamed = frozenset(desired.misnamed)
        public = {task: self._without_root(reason) for task, reason in desired.refused.items()}
        for task, reason in desired.refused.items():
            if self.snapshot.refused_tasks.get(task) != public[task]:
                logger.error("refused the task %s: %s", task, reason)
        return public

    def _without_root(self, reason: str) -> str:
        return reason.replace(f"{self.store.root}/", "")

    def _publish_metrics(self) -> None:
        snapshot = self.snapshot
        self._metrics.store.refused.set(len(snapshot.refused) + len(snapshot.refused_tasks))
        self._metrics.store.model_info.clear()
        for (task, variant), engine in snapshot.engines.items():
            self._metrics.store.model_info.labels(task, variant, engine.manifest.version, engine.runtime).set(1)


def _without(keys: tuple[ModelKey, ...], key: ModelKey) -> tuple[ModelKey, ...]:
    return tuple(other for other in keys if other != key)
