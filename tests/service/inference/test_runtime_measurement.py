"""Measurements of runtimes that the processes of a service share."""

from pathlib import Path

import pytest

from sparserve.models.bundle.inference import LoadedBundle, load_bundle
from sparserve.models.bundle.runtime_choice import RuntimeSeconds
from sparserve.models.bundle.store import Store
from sparserve.service.inference.runtime_measurement import RuntimeMeasurements
from tests.support.tiny_bundles import publish


class CountedMeasure:
    """Returns other seconds at each call."""

    calls = 0

    def __call__(self, onnx: LoadedBundle, sparse: LoadedBundle) -> RuntimeSeconds:
        """Count the call."""
        self.calls += 1
        return RuntimeSeconds(0.1 * self.calls, 0.2)


@pytest.fixture
def loaded(tmp_path: Path) -> tuple[LoadedBundle, LoadedBundle]:
    """Two bundles."""
    store = Store(tmp_path / "store")
    return load_bundle(publish(store), threads=1), load_bundle(publish(store, variant="sparse90"), threads=1)


def test_measurements_are_made_once(loaded: tuple[LoadedBundle, LoadedBundle]) -> None:
    measure = CountedMeasure()
    measurements = RuntimeMeasurements(measure=measure)
    one, other = loaded
    assert measurements.of(one, one) == measurements.of(one, one) == RuntimeSeconds(0.1, 0.2)
    assert measurements.of(other, other) == RuntimeSeconds(0.2, 0.2)
    assert measure.calls == 2


def test_measurements_are_shared_by_processes(loaded: tuple[LoadedBundle, LoadedBundle], tmp_path: Path) -> None:
    measure = CountedMeasure()
    first, second = (RuntimeMeasurements(tmp_path, measure) for _ in range(2))
    one, other = loaded
    assert first.of(one, one) == second.of(one, one) == RuntimeSeconds(0.1, 0.2)
    assert second.of(other, other) == first.of(other, other) == RuntimeSeconds(0.2, 0.2)
    assert measure.calls == 2
