"""Measurement of bundles in both runtimes, once for all processes of a service, so that all choose the same."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sparserve.models.bundle.inference import LoadedBundle
from sparserve.models.bundle.runtime_choice import RuntimeSeconds, measure_runtimes

Measure = Callable[[LoadedBundle, LoadedBundle], RuntimeSeconds]

RECORD_NAME: Final = "runtime-seconds.jsonl"


class RuntimeMeasurements:
    """Measured seconds of bundle versions. A version is measured when it is first asked for, by one process at a time.

    Args:
        folder: of files that the processes of a service share; None for a service of one.
        measure: measures a bundle that is loaded in ONNX Runtime and in the sparse runtime.
    """

    def __init__(self, folder: Path | None = None, measure: Measure = measure_runtimes) -> None:
        self._record = folder / RECORD_NAME if folder else None
        self._measure = measure
        self._known: dict[str, RuntimeSeconds] = {}

    def of(self, onnx: LoadedBundle, sparse: LoadedBundle) -> RuntimeSeconds:
        """Return the seconds of one text of a bundle that is loaded in both runtimes.

        Raises:
            OSError: the shared folder has no room for the record.
        """
        version = onnx.bundle.manifest.version
        if version not in self._known:
            self._known[version] = self._recorded(version, lambda: self._measure(onnx, sparse))
        return self._known[version]

    def _recorded(self, version: str, measure: Callable[[], RuntimeSeconds]) -> RuntimeSeconds:
        """Return what another process has measured, or measure while the others wait."""
        if self._record is None:
            return measure()
        import fcntl  # not on Windows, where a service is one process

        with self._record.open("a+", encoding="utf-8") as record:
            fcntl.flock(record, fcntl.LOCK_EX)  # until the file is closed, or the process dies
            record.seek(0)
            for known in map(json.loads, record):
                if known["version"] == version:
                    return RuntimeSeconds(**known["seconds"])
            seconds = measure()
            record.write(json.dumps({"version": version, "seconds": asdict(seconds)}) + "\n")
            return seconds
