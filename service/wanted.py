"""What a store says should be served: the version of each variant, the tasks' defaults, and what is damaged."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import StoreError
from models.store import Store
from service.contents import Key
from service.metrics import Metrics
from service.mirror import Mirror
from service.settings import Settings

logger = logging.getLogger("service.wanted")


@dataclass(frozen=True)
class Wanted:
    """One look at a store."""

    versions: dict[Key, str]
    defaults: dict[str, str]
    damaged: dict[Key, str]


class StoreReader:
    """Looks at the store; one behind a URL is mirrored into the local one first."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.store = Store(settings.store)
        self._pins = {tuple(name.split("/", 1)): version for name, version in settings.pins.items()}
        self._metrics = metrics
        self._mirror = Mirror(settings.store_url, self.store) if settings.store_url else None
        self._mirrored = True

    def look(self, pins: Mapping[Key, str]) -> Wanted:
        """What should be served now; `pins` go before the versions that the store and the settings say.

        Where the URL cannot be reached, what has been mirrored counts.

        Raises:
            OSError, StoreError: the store cannot be read, or holds nothing.
        """
        fault = self._sync(pins)
        store = self.store
        tasks = store.tasks() if store.root.is_dir() else []
        if not tasks:
            what = "holds no bundle: publish one" if store.root.is_dir() else "does not exist: publish a bundle there"
            raise OSError(fault or f"it {what}")
        wanted = Wanted({}, {task: store.default_variant(task) for task in tasks}, {})
        for key in ((task, variant) for task in tasks for variant in store.variants(task)):
            try:
                wanted.versions[key] = pins.get(key) or self._pins.get(key) or store.current(*key)
            except StoreError as error:
                wanted.damaged[key] = str(error)
        self._metrics.store_readable.set(fault is None)
        return wanted

    def _sync(self, pins: Mapping[Key, str]) -> str | None:
        """Bring the mirror up to date; why that is not possible, if it is not."""
        if self._mirror is None:
            return None
        try:
            self._mirror.sync({**self._pins, **pins})  # type: ignore[dict-item]
        except OSError as error:
            if self._mirrored:  # once, not at every look
                logger.error("%s; what has been mirrored is served", error)
            self._mirrored = False
            return str(error)
        self._mirrored = True
        return None
