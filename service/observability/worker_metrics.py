"""Metrics of one worker of several, in files that the other workers read, so that `/metrics` of any adds up all.

Counters, histograms and gauges of the mode `livesum` are kept in files, one for each kind and worker. A worker that
replaces a dead one continues its counters. Other gauges describe the state of the whole service, which every worker
knows; they stay in the worker's memory.
"""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue

from sparserve.service.mapped_file import reserve_file

LIVE: Final = "livesum"
FILE_BYTES: Final = 256 * 2**10  # about a thousand time series; a file grows if there are more
_KINDS: Final = ("counter", "histogram", f"gauge_{LIVE}")


def reserve_metrics(folder: Path, process: int | str) -> None:
    """Make the files of a process, or only that of the gauges if the others are there: its gauges begin at 0.

    Raises:
        OSError: there is no room.
    """
    for kind in _KINDS:
        path = folder / f"{kind}_{process}.db"
        if kind.startswith("gauge") or not path.exists():
            reserve_file(path, FILE_BYTES)


class FileValues:
    """Makes the values of a process's metrics: takes the place of `prometheus_client.values.ValueClass`.

    Args:
        folder: of the files, as `reserve_metrics` has made them.
        process: name of the process in the names of its files.
    """

    def __init__(self, folder: Path, process: int | str) -> None:
        self._folder = folder
        self._process = process
        self._files: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        kind: str,
        metric_name: str,
        name: str,
        label_names: list[str],
        label_values: list[str],
        documentation: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> Any:
        """Return the value of a time series: in a file, or for the state of the whole service in memory."""
        if kind == "gauge" and multiprocess_mode != LIVE:
            identity = (kind, metric_name, name, label_names, label_values)
            return MutexValue(*identity, documentation)  # type: ignore[no-untyped-call]
        with self._lock:
            file = self._file(f"{kind}_{multiprocess_mode}" if kind == "gauge" else kind)
            return FileValue(file, mmap_key(metric_name, name, label_names, label_values, documentation), self._lock)

    def close(self) -> None:
        """Close the files; the values must not be used any more."""
        for file in self._files.values():
            file.close()

    def _file(self, kind: str) -> Any:
        if kind not in self._files:
            path = str(self._folder / f"{kind}_{self._process}.db")
            self._files[kind] = MmapedDict(path)  # type: ignore[no-untyped-call]
        return self._files[kind]


class FileValue:
    """A number in a mapped file. The lock is that of all values, because a file may grow."""

    def __init__(self, file: Any, key: str, lock: threading.Lock) -> None:
        self._file = file
        self._key = key
        self._lock = lock
        self._value: float = file.read_value(key)[0]

    def inc(self, amount: float) -> None:
        """Add to the number."""
        with self._lock:
            self._value += amount
            self._file.write_value(self._key, self._value, 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace the number."""
        with self._lock:
            self._value = value
            self._file.write_value(self._key, value, 0.0)

    def get(self) -> float:
        """Return the number of this worker."""
        return self._value

    def set_exemplar(self, exemplar: Any) -> None:
        """Ignore an example."""

    def get_exemplar(self) -> None:
        """Return no example."""


def summed_registry(folder: Path) -> CollectorRegistry:
    """Return a registry with the sums over all workers."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return registry


class ProcessesCollector(Collector):
    """The usual `process_*` metrics for each process of the service, by the label `process`."""

    def __init__(self) -> None:
        self.pids: Mapping[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the processes that live."""
        families: dict[str, Metric] = {}
        for process, pid in self.pids.items():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {**sample.labels, "process": process}, sample.value)
        yield from families.values()
