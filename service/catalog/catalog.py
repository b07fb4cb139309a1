"""The bundles that are served: which are loaded, which are still loading, which were refused and why.

The store is read again every now and then. A new version is opened, verified, loaded and warmed up aside; only then do
requests get it, while those that the old one has admitted are still answered by it. A version that is refused changes
nothing: the old one stays.
"""

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final

from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.service.catalog.bundle_loader import Acceptance
from sparserve.service.catalog.desired_state import Wanted, wanted_of
from sparserve.service.catalog.mirror import Mirror
from sparserve.service.catalog.mirror_thread import Follower
from sparserve.service.catalog.snapshot import Contents, Key, Refusal
from sparserve.service.inference.engine import Engine
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Settings

logger = logging.getLogger(__name__)

# Between two looks for engines that fail, where the store itself is looked at once only.
MEND_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Overrides:
    """What was ordered while this process ran, and goes before what the store and the settings say."""

    pins: Mapping[Key, str] = field(default_factory=dict)
    unloaded: frozenset[Key] = frozenset()


class Catalog:
    """Serves the current version of every variant of a store, or the version that is pinned.

    Raises:
        StoreError: the settings name a URL that nothing here can read.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.store = Store(settings.store)
        self.contents = Contents()
        self.overrides = Overrides()
        self.changing = threading.RLock()  # held by who changes what is served: it may take seconds
        self.loaded: Future[None] = Future()  # done once every bundle has been served or refused
        self._settings = settings
        self._metrics = metrics
        names = {name: name.partition("/") for name in settings.pins}
        self._pins = {(task, variant): settings.pins[name] for name, (task, _, variant) in names.items()}
        self._acceptance = Acceptance(settings, self.store, metrics)
        self._closing = threading.Event()
        self._fault: str | None = None
        self._failing: dict[str, type[Exception]] = {}
        self.follower: Follower | None = None
        if settings.store_url:
            mirror = Mirror(settings.store_url, self.store)
            seconds = settings.watch_seconds
            self.follower = Follower(mirror, seconds=seconds, wanted=self._needed, synced=self._synced)

    def watch(self) -> None:
        """Look at the store now, then every few seconds, until the catalog is closed; for a thread of its own.

        A mirror is looked at when it was brought up to date. Engines that fail are loaded anew in any case.
        """
        self._go_on(self.look)
        if self.follower:
            self.follower.begin()
        else:
            self.loaded.set_result(None)
        while not self._closing.wait(self._settings.watch_seconds or MEND_SECONDS):
            if self._settings.watch_seconds and not self.follower:
                self._go_on(self.look)
            self._go_on(self.mend)

    def close(self, seconds: float) -> None:
        """Load nothing more; wait at most so long for a bundle under way, since a process that ends under it aborts."""
        self._closing.set()
        if self.follower:
            self.follower.close()
        if self.changing.acquire(timeout=seconds):
            self.changing.release()

    def refresh(self) -> None:
        """Make what is served what the store says, or the URL that it mirrors if that answers in time.

        Takes seconds, as the methods below do: run them off the event loop.
        """
        if self.follower:
            with contextlib.suppress(TimeoutError):
                self.follower.sync()
        self.look()
        self.mend()

    def look(self, retried: Collection[Key] = ()) -> None:
        """Make what is served what the folder of the store says; `retried` are tried though they were refused."""
        with self.changing:
            try:
                wanted = wanted_of(self.store, {**self._pins, **self.overrides.pins})
            except (OSError, ValueError, StoreError) as error:
                self._unreadable(f"the store {self._settings.store} cannot be read: {error}")
                return
            self._readable()
            before = self.contents
            every = wanted.versions.keys() | wanted.damaged.keys()
            served = every - self.overrides.unloaded
            engines = {key: engine for key, engine in before.engines.items() if key in served}
            changed = self._changed(wanted, engines, retried)
            todo = sorted(changed, key=lambda key: wanted.defaults[key[0]] != key[1])
            self.contents = replace(
                before,
                defaults=before.next_defaults(wanted.defaults),
                engines=engines,
                # A refusal is of interest while that version is wanted.
                refused={
                    key: refusal
                    for key, refusal in before.refused.items()
                    if key in served and key not in todo and refusal.version == wanted.versions.get(key)
                },
                loading=tuple(key for key in todo if key not in engines),
                unloaded=frozenset(every & self.overrides.unloaded),
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

    def mend(self) -> None:
        """Load anew the engines that fail again and again."""
        with self.changing:
            for key, engine in self.contents.engines.items():
                if not self._closing.is_set() and engine.health.reload_due():
                    self._load(key, engine.manifest.version)
                    self._describe()

    def override(self, overrides: Overrides) -> None:
        """Have other versions served than the store says from the next look on; what is unloaded is served no more."""
        with self.changing:
            self.overrides, before = overrides, self.contents
            kept = {key: engine for key, engine in before.engines.items() if key not in overrides.unloaded}
            gone = overrides.unloaded & {*before.engines, *before.loading, *before.refused}
            self.contents = replace(
                before,
                engines=kept,
                loading=tuple(key for key in before.loading if key not in gone),
                refused={key: refusal for key, refusal in before.refused.items() if key not in gone},
                unloaded=before.unloaded | gone,
            )
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

    def _go_on(self, step: Callable[[], None]) -> None:
        """Do it, and go on whatever happens: a thread that ends would leave the store unwatched for good."""
        try:
            step()
        except Exception as error:
            if self._failing.get(step.__name__) is not type(error):  # once, not every few seconds
                logger.exception("the store %s could not be followed", self._settings.store)
            self._failing[step.__name__] = type(error)
            self._metrics.store_readable.set(0)
        else:
            self._failing.pop(step.__name__, None)

    def _needed(self) -> dict[Key, set[str]]:
        """Versions that a mirror has to have besides the current ones."""
        needed: dict[Key, set[str]] = defaultdict(set)
        served = {key: engine.manifest.version for key, engine in self.contents.engines.items()}
        for versions in (self._pins, self.overrides.pins, served):
            for key, version in versions.items():
                needed[key].add(version)
        return needed

    def _synced(self) -> None:
        """The URL was looked at, or could not be."""
        if self.follower and self.follower.fault is None:
            self._metrics.store_looked.set_to_current_time()
        self._go_on(self.look)
        if not self.loaded.done():
            self.loaded.set_result(None)

    def _readable(self) -> None:
        self._fault = None
        self._metrics.store_readable.set(self.follower is None or self.follower.fault is None)
        if not self.follower:
            self._metrics.store_looked.set_to_current_time()

    def _unreadable(self, fault: str) -> None:
        """What is served goes on without the store; with nothing to serve, the fault is what clients are told."""
        self._metrics.store_readable.set(0)
        if self.follower and self.follower.fault:  # which is in the log already
            fault = self.follower.fault
        elif fault != self._fault and not self._closing.is_set():  # once, not at every look
            logger.error("%s%s", fault, "; what is loaded is still served" if self.contents.engines else "")
        self._fault = fault
        if not self.contents.engines:
            self.contents = Contents(fault=fault)

    def _changed(self, wanted: Wanted, engines: Mapping[Key, Engine], retried: Collection[Key]) -> Iterator[Key]:
        """Variants of which another version is wanted than is served, but those whose refusal stands."""
        for key, version in wanted.versions.items():
            engine, refusal = engines.get(key), self.contents.refused.get(key)
            if key in self.overrides.unloaded or (engine and engine.manifest.version == version):
                continue
            refused = refusal and refusal.version == version and self._acceptance.stands(refusal, engines)
            if not refused or key in retried:
                yield key

    def _load(self, key: Key, version: str) -> None:
        outcome = self._acceptance.load(key, version, self.contents.engines)
        if isinstance(outcome, Refusal):
            self._refuse(outcome)
            return
        before = self.contents
        self.contents = replace(
            before,
            engines={**before.engines, key: outcome},
            loading=_without(before.loading, key),
            refused={other: refusal for other, refusal in before.refused.items() if other != key},
        )
        logger.info("serving %s/%s version %s, runtime %s", *key, version, outcome.runtime)

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
