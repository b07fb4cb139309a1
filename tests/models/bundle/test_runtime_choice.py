"""Choice of a bundle's runtime: by a setting, the manifest or a measurement, without loading a graph."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from sparserve.kernels.library import Library
from sparserve.models.bundle import runtime_choice
from sparserve.models.bundle.inference import OnnxClassifier, load_bundle
from sparserve.models.bundle.manifest import (
    LatencyPoint,
    Machine,
    Manifest,
    Measurement,
    Packed,
    SparseMeasurement,
)
from sparserve.models.bundle.runtime_choice import (
    MAX_ROUNDS,
    RuntimeChoice,
    RuntimeDecision,
    RuntimeSeconds,
    load_in_chosen_runtime,
    measure_runtimes,
    possible_runtimes,
)
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.variants import Runtime
from sparserve.models.errors import BundleError
from tests.support.tiny_bundles import manifest, publish, sample_of

ISA: Final = ("avx", "avx2", "fma")
SPARSE_IS_FASTER: Final = RuntimeSeconds(0.004, 0.001)
ONNX_IS_FASTER: Final = RuntimeSeconds(0.001, 0.004)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with AVX2, whatever this one has."""
    monkeypatch.setattr(runtime_choice, "instruction_sets", lambda: ISA)
    monkeypatch.setattr(runtime_choice, "sparse_library", lambda: Library(Path("libsparserve.so"), "avx2", 1))


def points(*seconds: float) -> tuple[LatencyPoint, ...]:
    return tuple(
        LatencyPoint(
            batch=1, length=8 * (index + 1), p50_seconds=p50, p95_seconds=p50, items_per_second=1, dense_p50_seconds=1
        )
        for index, p50 in enumerate(seconds)
    )


def packed_manifest(*, preferred: bool = True, isa: str = "avx2", processor: Sequence[str] = ISA) -> Manifest:
    """A bundle with a graph for each runtime; `isa` and `processor` are those of its measurement."""
    sparse = SparseMeasurement(
        isa=isa,
        rows=1,
        accuracy=1.0,
        same_labels=1.0,
        largest_difference=0.0,
        resident_bytes=1,
        latency=points(0.001, 0.004),
        faster_at=(),
        preferred=preferred,
    )
    measurement = Measurement(
        measured_at="2026-01-01T00:00:00+00:00",
        machine=Machine(
            cpu="x", isa=tuple(processor), cores=1, memory_bytes=1, system="x", python="3", onnxruntime="1"
        ),
        threads=1,
        repeats=1,
        resident_bytes=1,
        latency=points(0.004, 0.016),
        sparse=sparse,
    )
    packed = Packed(
        format_version=1,
        opset_version=1,
        values="fp32",
        bytes=1,
        encoder_bytes=1,
        index_bytes=1,
        value_bytes=1,
        layouts={},
        first_token_only=True,
    )
    return manifest(measurement=measurement, packed=packed)


def decide(
    bundle: Manifest,
    choice: RuntimeChoice = "auto",
    seconds: RuntimeSeconds | None = SPARSE_IS_FASTER,
    fails: Runtime | None = None,
) -> tuple[Runtime, RuntimeDecision | None]:
    """Return what is loaded, which is just the name of the runtime, and the decision."""

    def load(runtime: Runtime) -> Runtime:
        if runtime == fails:
            raise BundleError("it does not load")
        return runtime

    def measure(onnx: Runtime, sparse: Runtime) -> RuntimeSeconds:
        assert (onnx, sparse) == ("onnx", "sparse")
        if seconds is None:
            raise RuntimeError("no memory")
        return seconds

    return load_in_chosen_runtime(bundle, choice, load, measure)


def test_possible_runtimes_are_both_if_a_measurement_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert possible_runtimes(packed_manifest(), "auto") == ("sparse",)
    assert possible_runtimes(packed_manifest(preferred=False), "auto") == ("onnx",)
    assert possible_runtimes(packed_manifest(isa="avx512-vnni"), "auto") == ("onnx", "sparse")
    assert possible_runtimes(packed_manifest(isa="avx512-vnni"), "onnx") == ("onnx",)

    def missing() -> Library:
        raise BundleError("no library")

    monkeypatch.setattr(runtime_choice, "sparse_library", missing)
    assert possible_runtimes(packed_manifest(), "auto") == ("onnx",)


@pytest.mark.parametrize("preferred, runtime", [(True, "sparse"), (False, "onnx")])
def test_runtime_is_the_manifests_on_the_same_instruction_sets(preferred: bool, runtime: Runtime) -> None:
    loaded, decision = decide(packed_manifest(preferred=preferred), seconds=None)
    assert loaded == runtime
    assert decision and (decision.runtime, decision.source) == (runtime, "manifest")
    assert decision.seconds and decision.seconds.onnx == pytest.approx(0.008)
    assert decision.seconds.sparse == pytest.approx(0.002)


@pytest.mark.parametrize("elsewhere", [{"isa": "avx512-vnni"}, {"processor": (*ISA, "amx_int8")}])
@pytest.mark.parametrize("preferred", [True, False])
def test_runtime_is_measured_on_other_instruction_sets(
    elsewhere: Any, preferred: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bundle = packed_manifest(preferred=preferred, **elsewhere)
    for seconds, runtime in ((SPARSE_IS_FASTER, "sparse"), (ONNX_IS_FASTER, "onnx")):
        assert decide(bundle, seconds=seconds) == (runtime, RuntimeDecision(runtime, "measured", seconds))
    expected = "sparse" if preferred else "onnx"
    assert decide(bundle, seconds=RuntimeSeconds(0.00100, 0.00102))[0] == expected
    assert decide(bundle, seconds=RuntimeSeconds(0.00102, 0.00100))[0] == expected
    assert "here one text takes 4.00 ms in stock ONNX Runtime and 1.00 ms in the sparse runtime" in caplog.text


@pytest.mark.parametrize("choice", ["onnx", "sparse"])
def test_setting_wins_over_a_measurement(choice: RuntimeChoice) -> None:
    bundle = packed_manifest(isa="avx512-vnni", preferred=choice == "onnx")
    runtime: Runtime = "sparse" if choice == "sparse" else "onnx"
    assert decide(bundle, choice, None) == (runtime, RuntimeDecision(runtime, "setting"))
    with pytest.raises(BundleError, match="does not load"):
        decide(bundle, "sparse", fails="sparse")


def test_runtime_without_a_choice() -> None:
    assert decide(manifest(), seconds=None) == ("onnx", None)
    assert decide(manifest(), "sparse", None) == ("onnx", None)


def test_runtime_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    fallback = RuntimeDecision("onnx", "fallback")
    assert decide(packed_manifest(), fails="sparse") == ("onnx", fallback)
    assert "runs in stock ONNX Runtime: it does not load" in caplog.text
    elsewhere = packed_manifest(isa="neon")
    for fails, seconds in ((None, None), ("onnx", SPARSE_IS_FASTER)):
        loaded, decision = decide(elsewhere, seconds=seconds, fails=fails)
        assert loaded == "sparse"
        assert decision and decision.source == "manifest"
    assert "cannot be measured here: no memory" in caplog.text


def test_runtime_is_the_manifests_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Library:
        raise BundleError("it was not built")

    monkeypatch.setattr(runtime_choice, "sparse_library", absent)
    loaded, decision = decide(packed_manifest(preferred=False, isa="neon"), seconds=None)
    assert loaded == "onnx"
    assert decision and decision.source == "manifest"


class Clock:
    """A clock that only runs of a model move."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


class TimedClassifier(OnnxClassifier):
    """A classifier that takes a time per token on a clock; its first run takes ten times as long."""

    def __init__(self, clock: Clock, seconds_per_token: float) -> None:
        self.clock = clock
        self.seconds_per_token = seconds_per_token
        self.lengths: list[int] = []

    def logits(self, batch: Sequence[Tokens]) -> npt.NDArray[np.float32]:
        """Let the time pass."""
        (tokens,) = batch
        self.clock.now += len(tokens) * self.seconds_per_token * (1 if self.lengths else 10)
        self.lengths.append(len(tokens))
        return np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(
    "seconds_per_token, lengths",
    [(1e-5, [8, *[8, 16] * MAX_ROUNDS]), (0.001, [8, 8, 16, 8]), (0.05, [8, 8])],
)
def test_measure_runtimes_keeps_its_time(tmp_path: Path, seconds_per_token: float, lengths: list[int]) -> None:
    bundle = publish(Store(tmp_path), measurement=packed_manifest().measurement, sample=sample_of([[0, 0], [0, 0]]))
    clock, loaded = Clock(), load_bundle(bundle, threads=1)
    onnx, sparse = (TimedClassifier(clock, factor * seconds_per_token) for factor in (3, 1))
    seconds = measure_runtimes(replace(loaded, classifier=onnx), replace(loaded, classifier=sparse), clock=clock)
    assert onnx.lengths == sparse.lengths == lengths
    mean_length = (8 * 16) ** 0.5 if 16 in lengths else 8
    assert (seconds.onnx, seconds.sparse) == pytest.approx((3 * seconds.sparse, mean_length * seconds_per_token))
