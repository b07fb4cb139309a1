"""Whether a version that is wanted is served: it becomes an engine within the memory allowed, or is refused.

A refusal holds while its bundle stays as it is; one whose cause lies outside of the bundle, while the same graphs are
in memory.
"""

import logging
from collections.abc import Mapping

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.store import Store
from sparserve.models.errors import BundleError, StoreError
from sparserve.service.catalog.snapshot import Key, Refusal, files_of
from sparserve.service.inference.engine import Engine
from sparserve.service.inference.engine_loader import expected_runtime, load_engine
from sparserve.service.inference.health import out_of_memory
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Settings

logger = logging.getLogger(__name__)


class _OverBudget(Exception):
    """The graphs that are in memory leave too little room."""


class Acceptance:
    """Opens, verifies and loads the versions of a store."""

    def __init__(self, settings: Settings, store: Store, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics

    def load(self, key: Key, version: str, engines: Mapping[Key, Engine]) -> Engine | Refusal:
        """An engine that has answered a warm-up request, or why there is none; takes seconds.

        `engines` are those in memory. One of the same version is taken for broken: the new one is to replace it.
        """
        seen, taken = files_of(self._store.folder(*key, version)), _graph_bytes(engines)
        own = engines.get(key)
        # Another version that it takes the place of is in memory until its last request is answered.
        used = taken - (own.graph_bytes if own and own.manifest.version == version else 0)
        try:
            engine = self._load(key, version, used)
        except (BundleError, StoreError) as error:
            reason, outside = str(error), out_of_memory(error)
        except _OverBudget as error:
            reason, outside = str(error), True
        except Exception as error:  # one bad bundle must not keep the others from serving
            logger.exception("%s/%s cannot be loaded", *key)
            reason, outside = f"it cannot be loaded: {type(error).__name__}: {error}", True
        else:
            self._metrics.loaded(*key, "served")
            return engine
        self._metrics.loaded(*key, "refused")
        return Refusal(*key, version, reason, seen, taken if outside else None)

    def stands(self, refusal: Refusal, engines: Mapping[Key, Engine]) -> bool:
        """Whether to try again would end the same."""
        if refusal.version is None or refusal.taken not in (None, _graph_bytes(engines)):
            return False
        return refusal.seen == files_of(self._store.folder(refusal.task, refusal.variant, refusal.version))

    def _load(self, key: Key, version: str, used: int) -> Engine:
        settings = self._settings
        bundle = self._store.open(*key, version)
        self._check_memory(_expected_bytes(bundle.manifest, settings), used)
        engine = load_engine(
            bundle,
            threads=settings.threads_per_session,
            sample_tolerance=settings.sample_tolerance,
            runtime=settings.runtime,
        )
        self._check_memory(engine.graph_bytes, used)  # where the sparse runtime was expected and did not serve
        return engine

    def _check_memory(self, size: int, used: int) -> None:
        limit = self._settings.max_model_bytes
        if limit is not None and used + size > limit:
            raise _OverBudget(
                f"its graph has {size:,} bytes, and {used:,} of the {limit:,} that all graphs may have are taken: "
                "raise max_model_bytes, or remove variants from the store"
            )


def _expected_bytes(manifest: Manifest, settings: Settings) -> int:
    runtime = expected_runtime(manifest, settings.runtime)
    name = SPARSE_MODEL if runtime == "sparse" and SPARSE_MODEL in manifest.files else MODEL
    return manifest.files[name].bytes


def _graph_bytes(engines: Mapping[Key, Engine]) -> int:
    return sum(engine.graph_bytes for engine in engines.values())
