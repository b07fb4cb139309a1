"""What is ordered of a catalog while it runs: a version is pinned or taken back, a variant unloaded or loaded again.

All of it is in the memory of this process until it ends, but for the variant that a task answers with: that is written
to the store.
"""

import logging
from dataclasses import replace

from sparserve.models.bundle.store import is_version
from sparserve.models.errors import BundleError, SparserveError, StoreError
from sparserve.service.catalog.catalog import Catalog
from sparserve.service.catalog.snapshot import Key, listed
from sparserve.service.errors import InvalidRequest, Unavailable
from sparserve.service.inference.engine import Engine

logger = logging.getLogger(__name__)


class Orders:
    """Changes what a catalog serves; each order takes as long as loading does: run it off the event loop."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def pin(self, task: str, variant: str, version: str) -> Engine:
        """Serve this version of a variant until it is unpinned or the process ends, whatever the store says.

        Raises:
            UnknownResource: there is no such task or variant.
            Unavailable: nothing is known of the store, or the version is still on its way from the URL.
            InvalidRequest: there is no such version, or it is refused; what was served still is.
        """
        catalog = self._catalog
        (key,) = catalog.contents.keys(task, variant)
        self._fetch(key, version)
        with catalog.changing:
            versions = catalog.store.versions(*key)
            if version not in versions:
                raise InvalidRequest(f"{task}/{variant} has no version {version!r}; its versions: {listed(versions)}")
            before = catalog.overrides
            catalog.override(replace(before, pins={**before.pins, key: version}, unloaded=before.unloaded - {key}))
            catalog.look()
            engine, refusal = catalog.contents.engines.get(key), catalog.contents.refused.get(key)
            if engine and engine.manifest.version == version:
                return engine
            catalog.override(before)
            catalog.look()
        reason = refusal.reason if refusal else "the store cannot be read now"
        raise InvalidRequest(f"{task}/{variant} version {version} is refused: {reason}; what was served still is")

    def rollback(self, task: str, variant: str) -> Engine:
        """Pin the version that was published before the one that is served.

        Raises:
            UnknownResource, Unavailable: as `pin` and `Catalog.engine` do.
            InvalidRequest: there is none, or it is refused; what was served still is.
        """
        served = self._catalog.engine(task, variant).manifest.version
        try:
            before = self._catalog.store.version_before(task, variant, served, self._published(task, variant))
        except StoreError as error:
            raise InvalidRequest(str(error)) from error
        return self.pin(task, variant, before)

    def unpin(self, task: str, variant: str) -> Engine:
        """Serve the version that the store or the settings say, again.

        Raises:
            UnknownResource, Unavailable: as `Catalog.engine` does.
        """
        catalog = self._catalog
        with catalog.changing:
            (key,) = catalog.contents.keys(task, variant)
            pins = {other: version for other, version in catalog.overrides.pins.items() if other != key}
            catalog.override(replace(catalog.overrides, pins=pins))
            catalog.look()
            return catalog.engine(task, variant)

    def unload(self, task: str, variant: str | None = None) -> None:
        """Take a variant, or all that a task has now, out of service until it is loaded again.

        Raises:
            UnknownResource, Unavailable: as `Contents.keys` does.
        """
        catalog = self._catalog
        with catalog.changing:
            keys = catalog.contents.keys(task, variant)
            catalog.override(replace(catalog.overrides, unloaded=catalog.overrides.unloaded.union(keys)))

    def load(self, task: str, variant: str | None = None) -> None:
        """Take a variant, or all of a task, into service; what was refused is tried once more.

        Raises:
            UnknownResource, Unavailable: as `Catalog.engine` does.
        """
        catalog = self._catalog
        with catalog.changing:
            catalog.look()
            keys = catalog.contents.keys(task, variant)
            catalog.override(replace(catalog.overrides, unloaded=catalog.overrides.unloaded.difference(keys)))
            catalog.look(retried=keys)
            for key in keys:
                catalog.engine(*key)

    def make_default(self, task: str, variant: str) -> None:
        """Let a task answer with this variant from now on, in every process that serves this store.

        Raises:
            UnknownResource, Unavailable: as `Catalog.engine` does.
            InvalidRequest: the store is a mirror, or cannot be written.
        """
        catalog = self._catalog
        with catalog.changing:
            catalog.engine(task, variant)
            command = f"`sparserve bundles default {task} {variant}`"
            if catalog.follower:
                place = catalog.follower.mirror.place
                raise InvalidRequest(f"the store mirrors {place}: run {command} where that is written, and upload it")
            try:
                catalog.store.set_default_variant(task, variant)
            except (SparserveError, OSError) as error:
                logger.error("the default variant of %s is not changed: %s", task, error)
                raise InvalidRequest(f"the service cannot write to the store: run {command} where it can") from error
            catalog.look()

    def _fetch(self, key: Key, version: str) -> None:
        """Have a version in the folder of the store that only the URL may have."""
        follower, store = self._catalog.follower, self._catalog.store
        if follower is None or not is_version(version) or store.folder(*key, version).is_dir():
            return
        name = f"{'/'.join(key)} version {version}"
        try:
            follower.fetch(*key, version)
        except TimeoutError as error:
            raise Unavailable(f"{name} is not here yet, {error}: try again in a moment") from error
        except (BundleError, OSError) as error:
            raise InvalidRequest(f"{name} cannot be fetched: {error}; what was served still is") from error

    def _published(self, task: str, variant: str) -> dict[str, float]:
        """When the versions at the URL were published; without it, or where it fails, what is mirrored must do."""
        try:
            return self._catalog.follower.published(task, variant) if self._catalog.follower else {}
        except OSError as error:  # TimeoutError among them
            logger.warning("%s; what has been mirrored can be rolled back to", error)
            return {}
