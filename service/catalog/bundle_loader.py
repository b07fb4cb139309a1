"""Load a bundle version as an engine, or refuse it: invalid bundle, or over the memory budget."""

import logging
from collections.abc import Mapping

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.runtime_choice import RuntimeChoice, expected_runtime
from sparserve.models.bundle.store import Store
from sparserve.models.errors import BundleError, StoreError
from sparserve.service.catalog.snapshot import ModelKey, Refusal, file_states
from sparserve.service.inference.engine import Engine
from sparserve.service.inference.engine_loader import load_engine
from sparserve.service.inference.health import is_out_of_memory
from sparserve.service.inference.runtime_measurement import RuntimeMeasurements
from sparserve.service.observability.metrics import Metrics

logger = logging.getLogger(__name__)


class _OverBudget(Exception):
    """The loaded graphs leave too little memory."""


class BundleLoader:
    """Opens, verifies and loads bundle versions of a store.

    Args:
        store: the store.
        threads: threads of one ONNX Runtime session.
        sample_tolerance: difference of a logit from the bundle's sample that is accepted without a warning.
        runtime: the runtime that serves bundles with a packed graph.
        measurements: measures bundles in both runtimes that were measured with other instruction sets.
        max_model_bytes: size limit of all loaded graphs together; None for no limit.
        metrics: counts loaded and refused bundles.
    """

    def __init__(
        self,
        store: Store,
        *,
        threads: int,
        sample_tolerance: float,
        runtime: RuntimeChoice,
        measurements: RuntimeMeasurements,
        max_model_bytes: int | None,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._threads = threads
        self._sample_tolerance = sample_tolerance
        self._runtime: RuntimeChoice = runtime
        self._measurements = measurements
        self._max_model_bytes = max_model_bytes
        self._metrics = metrics

    def load(self, key: ModelKey, version: str, engines: Mapping[ModelKey, Engine]) -> Engine | Refusal:
        """Return an engine that has answered a warm-up request, or a refusal. Takes seconds.

        `engines` are the loaded ones. An engine of the same version is considered broken, and the new one replaces it.
        """
        files, loaded_bytes = file_states(self._store.folder(*key, version)), _graph_bytes(engines)
        replaced = engines.get(key)
        # An engine of another version stays in memory until its last request is answered.
        same_version = replaced is not None and replaced.manifest.version == version
        used_bytes = loaded_bytes - (replaced.graph_bytes if replaced and same_version else 0)
        try:
            engine = self._load(key, version, used_bytes)
        except (BundleError, StoreError) as error:
            reason, external = str(error), is_out_of_memory(error)
        except _OverBudget as error:
            reason, external = str(error), True
        except Exception as error:  # one bad bundle must not stop the others from being served
            logger.exception("%s/%s cannot be loaded", *key)
            reason, external = f"it cannot be loaded: {type(error).__name__}: {error}", True
        else:
            self._metrics.store.loaded(*key, "served")
            return engine
        self._metrics.store.loaded(*key, "refused")
        return Refusal(*key, version, reason, files, loaded_bytes if external else None)

    def is_final(self, refusal: Refusal, engines: Mapping[ModelKey, Engine]) -> bool:
        """Return True if another attempt would end the same way.

        A refusal stays valid until a file of its bundle changes. If its cause lies outside the bundle, it also becomes
        invalid when other graphs are in memory.
        """
        if refusal.version is None or refusal.other_graph_bytes not in (None, _graph_bytes(engines)):
            return False
        return refusal.files == file_states(self._store.folder(refusal.task, refusal.variant, refusal.version))

    def _load(self, key: ModelKey, version: str, used_bytes: int) -> Engine:
        bundle = self._store.open(*key, version)
        self._check_memory(_expected_bytes(bundle.manifest, self._runtime), used_bytes)
        engine = load_engine(
            bundle,
            threads=self._threads,
            sample_tolerance=self._sample_tolerance,
            runtime=self._runtime,
            measurements=self._measurements if self._has_room_for_both(bundle.manifest, used_bytes) else None,
        )
        self._check_memory(engine.graph_bytes, used_bytes)  # the sparse runtime may have been expected, but not usable
        return engine

    def _has_room_for_both(self, manifest: Manifest, used_bytes: int) -> bool:
        """Return True if the graphs of both runtimes may be in memory at a time, to measure them."""
        both = sum(manifest.files[name].bytes for name in (MODEL, SPARSE_MODEL) if name in manifest.files)
        return self._max_model_bytes is None or used_bytes + both <= self._max_model_bytes

    def _check_memory(self, size: int, used_bytes: int) -> None:
        limit = self._max_model_bytes
        if limit is not None and used_bytes + size > limit:
            raise _OverBudget(
                f"its graph has {size:,} bytes, and {used_bytes:,} of the {limit:,} bytes allowed for all graphs "
                "are in use: raise max_model_bytes, or remove variants from the store"
            )


def _expected_bytes(manifest: Manifest, choice: RuntimeChoice) -> int:
    runtime = expected_runtime(manifest, choice)
    name = SPARSE_MODEL if runtime == "sparse" and SPARSE_MODEL in manifest.files else MODEL
    return manifest.files[name].bytes


def _graph_bytes(engines: Mapping[ModelKey, Engine]) -> int:
    return sum(engine.graph_bytes for engine in engines.values())
