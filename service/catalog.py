"""The bundles that are served: which are loaded, which are still loading, which were refused and why.

The store is read again every now and then. A new version is opened, verified, loaded and warmed up aside; only then do
requests get it, while those that the old one has admitted are still answered by it. A version that is refused changes
nothing: the old one stays.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

from models.errors import BundleError, StoreError
from service.contents import Contents, Key, Refusal, files_of, listed
from service.engine import Engine
from service.errors import InvalidRequest
from service.loading import load_engine
from service.metrics import Metrics
from service.settings import Settings
from service.wanted import StoreReader, Wanted

logger = logging.getLogger("service.catalog")


class Catalog:
    """Serves the current version of every variant of a store, or the version that is pinned."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._reader = StoreReader(settings, metrics)
        self._store = self._reader.store
        self._closing = threading.Event()
        self._refreshing = threading.RLock()
        self._pins: dict[Key, str] = {}
        self._unloaded: set[Key] = set()
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
                wanted = self._reader.look(self._pins)
            except (OSError, ValueError) as error:
                self._unreadable(f"the store {self._settings.store} cannot be read: {error}")
                return
            self._metrics.store_looked.set_to_current_time()
            before = self.contents
            todo = sorted(self._changed(wanted), key=lambda key: wanted.defaults[key[0]] != key[1])
            every = wanted.versions.keys() | wanted.damaged.keys()
            served = every - self._unloaded
            self.contents = replace(
                before,
                defaults=before.next_defaults(wanted.defaults),
                engines={key: engine for key, engine in before.engines.items() if key in served},
                # A refusal is of interest while that version is wanted.
                refused={
                    key: refusal
                    for key, refusal in before.refused.items()
                    if key in served and key not in todo and refusal.version == wanted.versions.get(key)
                },
                loading=tuple(key for key in todo if key not in before.engines),
                unloaded=frozenset(every & self._unloaded),
                fault=None,
            )
            for key in served & wanted.damaged.keys():
                self._refuse(Refusal(*key, None, wanted.damaged[key]))
            for key in todo:
                if self._closing.is_set():
                    return
                self._load(key, wanted.versions[key])
            self.contents = replace(self.contents, defaults=self.contents.next_defaults(wanted.defaults))
            self._describe()

    def engine(self, task: str, variant: str | None = None) -> Engine:
        """The engine of a variant; of the task's default variant if none is named.

        Raises:
            UnknownResource, Unavailable: as `Contents.engine` does.
        """
        return self.contents.engine(task, variant)

    def reason_not_ready(self) -> str | None:
        """Why not every task's default variant can answer; None when all have answered a warm-up request."""
        return self.contents.reason_not_ready()

    @property
    def pins(self) -> dict[Key, str]:
        """The versions that were pinned while this process ran."""
        return dict(self._pins)

    def pin(self, task: str, variant: str, version: str) -> Engine:
        """Serve this version of a variant until it is unpinned or the process ends, whatever the store says.

        Takes as long as loading does, as the methods below do: run them off the event loop.

        Raises:
            UnknownResource, Unavailable: as `Contents.keys` does.
            InvalidRequest: there is no such version, or it is refused; what was served still is.
        """
        with self._refreshing:
            (key,) = self.contents.keys(task, variant)
            versions = self._store.versions(*key)
            if version not in versions:
                raise InvalidRequest(f"{task}/{variant} has no version {version!r}; its versions: {listed(versions)}")
            before, unloaded = self._pins.copy(), self._unloaded.copy()
            self._pins[key] = version
            self._unloaded.discard(key)
            self.refresh()
            engine, refusal = self.contents.engines.get(key), self.contents.refused.get(key)
            if engine and engine.manifest.version == version:
                return engine
            self._pins, self._unloaded = before, unloaded
            self.refresh()
        reason = refusal.reason if refusal else "the store cannot be read now"
        raise InvalidRequest(f"{task}/{variant} version {version} is refused: {reason}; what was served still is")

    def rollback(self, task: str, variant: str) -> Engine:
        """Pin the version that was published before the one that is served.

        Raises:
            UnknownResource, Unavailable: as `Contents.engine` does.
            InvalidRequest: there is none, or it is refused; what was served still is.
        """
        with self._refreshing:
            served = self.contents.engine(task, variant).manifest.version
            try:
                return self.pin(task, variant, self._store.version_before(task, variant, served))
            except StoreError as error:
                raise InvalidRequest(str(error)) from error

    def unpin(self, task: str, variant: str) -> Engine:
        """Serve the version that the store or the settings say, again.

        Raises:
            UnknownResource, Unavailable: as `Contents.engine` does.
        """
        with self._refreshing:
            (key,) = self.contents.keys(task, variant)
            self._pins.pop(key, None)
            self.refresh()
            return self.engine(task, variant)

    def unload(self, task: str, variant: str | None = None) -> None:
        """Take a variant, or all that a task has now, out of service until it is loaded again.

        Raises:
            UnknownResource, Unavailable: as `Contents.keys` does.
        """
        with self._refreshing:
            before = self.contents
            keys = frozenset(before.keys(task, variant))
            self._unloaded |= keys
            self.contents = replace(
                before,
                engines={key: engine for key, engine in before.engines.items() if key not in keys},
                loading=tuple(key for key in before.loading if key not in keys),
                refused={key: refusal for key, refusal in before.refused.items() if key not in keys},
                unloaded=before.unloaded | keys,
            )
            self._describe()

    def load(self, task: str, variant: str | None = None) -> None:
        """Take a variant, or all of a task, into service; what was refused is tried once more.

        Raises:
            UnknownResource, Unavailable: as `Contents.engine` does.
        """
        with self._refreshing:
            self.refresh()
            keys = self.contents.keys(task, variant)
            self._unloaded.difference_update(keys)
            refused = {key: refusal for key, refusal in self.contents.refused.items() if key not in keys}
            self.contents = replace(self.contents, refused=refused)
            self.refresh()
            for key in keys:
                self.engine(*key)

    def _unreadable(self, fault: str) -> None:
        """What is served goes on without the store; with nothing to serve, the fault is what clients are told."""
        self._metrics.store_readable.set(0)
        if not self.contents.engines:
            if fault != self.contents.fault:
                logger.error("%s", fault)
            self.contents = Contents(fault=fault)
        elif not self._closing.is_set():
            logger.error("%s; what is loaded is still served", fault)

    def _changed(self, wanted: Wanted) -> Iterator[Key]:
        """Variants of which another version is wanted than is served, but those that were refused as they are now.

        And those whose engine is not healthy.
        """
        for key, version in wanted.versions.items():
            if key in self._unloaded:
                continue
            engine, refusal = self.contents.engines.get(key), self.contents.refused.get(key)
            if engine and engine.manifest.version == version:
                if engine.health.reload_due():
                    yield key
                continue
            if refusal and refusal.version == version and refusal.seen == files_of(self._store.folder(*key, version)):
                continue
            yield key

    def _load(self, key: Key, version: str) -> None:
        task, variant = key
        seen = files_of(self._store.folder(*key, version))
        try:
            bundle = self._store.open(task, variant, version)
            self._check_memory(key, bundle.model_path.stat().st_size)
            engine = load_engine(
                bundle,
                threads=self._settings.threads_per_session,
                sample_tolerance=self._settings.sample_tolerance,
                runtime=self._settings.runtime,
            )
        except (BundleError, StoreError) as error:
            self._metrics.loaded(task, variant, "refused")
            self._refuse(Refusal(task, variant, version, str(error), seen))
        except Exception as error:  # one bad bundle must not keep the others from serving
            logger.exception("%s/%s cannot be loaded", task, variant)
            self._metrics.loaded(task, variant, "refused")
            reason = f"it cannot be loaded: {type(error).__name__}: {error}"
            self._refuse(Refusal(task, variant, version, reason, seen))
        else:
            before = self.contents
            refused = {other: refusal for other, refusal in before.refused.items() if other != key}
            self.contents = replace(
                before, engines={**before.engines, key: engine}, loading=_without(before.loading, key), refused=refused
            )
            self._metrics.loaded(task, variant, "served")
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
