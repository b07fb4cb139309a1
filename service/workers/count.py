"""Choose the number of workers from the CPUs, the memory, and the measured cost of the models in the store.

One process runs Python on one CPU at a time, however many threads compute. With a slow model that is enough: Python
takes a small part of each request. With a fast one it is the bottleneck. If a text costs `m` CPU seconds in the model
and `s` in Python, `C` CPUs answer C / (s + m) texts per second, for which Python needs C * s / (s + m) CPUs.
"""

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL
from sparserve.models.bundle.manifest import LatencyPoint, Manifest
from sparserve.models.bundle.runtime_choice import possible_runtimes
from sparserve.models.bundle.store import Store
from sparserve.models.errors import SparserveError
from sparserve.service.settings import Settings

logger = logging.getLogger(__name__)

# Python's CPU time for a request with one text: 0.4 to 1.2 ms, measured on Zen 4 cores.
REQUEST_SECONDS: Final = 0.001
# Part of a CPU that Python can use in one process before requests wait for it.
PYTHON_SHARE: Final = 0.6
# Part of the memory that all workers together may use by this choice, and a worker's memory without its models.
MEMORY_SHARE: Final = 0.5
WORKER_BYTES: Final = 150 * 2**20
CGROUP_MEMORY: Final = Path("/sys/fs/cgroup/memory.max")


def worker_count(settings: Settings, memory_bytes: int | None = None) -> int:
    """Return the setting `workers`, or if it is 0 the number that the models in the store need.

    It is one if the store is a mirror or a default variant was not measured. `memory_bytes` is by default what this
    process may use.
    """
    if settings.workers:
        return settings.workers
    store = Store(settings.store)
    manifests = list(_manifests(store))
    answering = [one for one in manifests if one.variant == store.default_variant(one.task)]
    seconds = [_seconds_per_text(manifest, settings) for manifest in answering]
    if sys.platform != "linux" or settings.store_url or not seconds or None in seconds:
        return 1  # what the models need is not known
    fastest = min(one for one in seconds if one is not None)
    busy = settings.total_threads * REQUEST_SECONDS / (REQUEST_SECONDS + fastest)
    count = min(math.ceil(busy / PYTHON_SHARE), settings.total_threads)
    each = WORKER_BYTES + sum(_resident_bytes(manifest) for manifest in manifests)
    affordable = int(MEMORY_SHARE * (memory_bytes or _memory_bytes()) / each)
    if settings.max_model_bytes is not None:
        graphs = sum(_graph_bytes(manifest) for manifest in manifests)
        affordable = min(affordable, settings.max_model_bytes // max(graphs, 1))
    count = max(min(count, affordable), 1)
    if count > 1:
        logger.info("%d workers: the fastest default model takes %.1f ms of CPU per text", count, fastest * 1000)
    return count


def _manifests(store: Store) -> Iterator[Manifest]:
    """Yield the manifests of every variant that can be read; a task or a bundle that cannot is refused later."""
    with contextlib.suppress(OSError, SparserveError):
        for task in store.tasks():
            with contextlib.suppress(OSError, SparserveError):
                store.default_variant(task)
                for variant in store.variants(task):
                    with contextlib.suppress(OSError, SparserveError, ValidationError):
                        yield store.open(task, variant, verify=False).manifest


def _seconds_per_text(manifest: Manifest, settings: Settings) -> float | None:
    """Return the CPU seconds of a short text in a batch, as measured with the bundle; None if it was not."""
    measurement = manifest.measurement
    if measurement is None:
        return None
    sparse = measurement.sparse.latency if measurement.sparse else measurement.latency
    runtimes = possible_runtimes(manifest, settings.runtime)
    # Where the runtime is chosen by a measurement at load, the faster one will run.
    return min(
        (
            _seconds_of_short_text(points) * measurement.threads
            for points in (sparse if runtime == "sparse" else measurement.latency for runtime in runtimes)
            if points
        ),
        default=None,
    )


def _seconds_of_short_text(points: Sequence[LatencyPoint]) -> float:
    point = min(points, key=lambda point: (point.length, -point.batch))
    return point.p50_seconds / point.batch


def _resident_bytes(manifest: Manifest) -> int:
    return manifest.measurement.resident_bytes if manifest.measurement else _graph_bytes(manifest)


def _graph_bytes(manifest: Manifest) -> int:
    files = [manifest.files[name].bytes for name in (MODEL, SPARSE_MODEL) if name in manifest.files]
    return max(files, default=0)


def _memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, cut by the container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(CGROUP_MEMORY.read_text()))
    return total
