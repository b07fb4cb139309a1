"""The number of workers follows from the CPUs, the memory and the measured models."""

from pathlib import Path
from typing import Any

import pytest

from sparserve.kernels.library import Library
from sparserve.models.bundle import runtime_choice
from sparserve.models.bundle.manifest import LatencyPoint, Machine, Measurement, Packed, SparseMeasurement
from sparserve.models.bundle.store import Store
from sparserve.service.settings import Settings
from sparserve.service.workers.count import WORKER_BYTES, worker_count
from tests.support.tiny_bundles import publish

PLENTY = 2**40
SMALL_MODEL_BYTES = 10 * 2**20


def measured(batch_seconds: float) -> Measurement:
    """A measurement of batches of 8 short texts on two threads."""
    points = [
        LatencyPoint(
            batch=batch,
            length=16,
            p50_seconds=seconds,
            p95_seconds=seconds,
            items_per_second=1,
            dense_p50_seconds=seconds,
        )
        for batch, seconds in ((1, batch_seconds), (8, batch_seconds))
    ]
    return Measurement(
        measured_at="2026-11-01T00:00:00+00:00",
        machine=Machine(cpu="x", isa=(), cores=2, memory_bytes=1, system="x", python="3.11", onnxruntime="1"),
        threads=2,
        repeats=1,
        resident_bytes=SMALL_MODEL_BYTES,
        latency=tuple(points),
    )


def count(folder: Path, seconds: float | None, memory_bytes: int = PLENTY, **settings: Any) -> int:
    """Return the number of workers for a store whose model takes `seconds` for 8 texts."""
    store = Store(folder / f"store-{seconds}")
    publish(store, measurement=None if seconds is None else measured(seconds))
    return worker_count(Settings(store=store.root, **settings), memory_bytes)


@pytest.mark.parametrize(
    ("threads", "dense", "sparse"),
    [(1, 1, 1), (2, 1, 2), (4, 1, 4), (16, 3, 14), (64, 12, 54)],
)
def test_fast_models_need_more_workers(tmp_path: Path, threads: int, dense: int, sparse: int) -> None:
    assert count(tmp_path, 0.033, threads=threads) == dense
    assert count(tmp_path, 0.004, threads=threads) == sparse


def test_models_measured_on_another_processor_run_in_the_faster_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = measured(0.033)
    sparse = SparseMeasurement(
        isa="neon", rows=1, accuracy=1, same_labels=1, largest_difference=0, resident_bytes=1,
        latency=measured(0.004).latency, faster_at=(), preferred=False,
    )  # fmt: skip
    packed = Packed(
        format_version=1, opset_version=1, values="int8", bytes=1, encoder_bytes=1, index_bytes=1, value_bytes=1,
        layouts={}, first_token_only=True,
    )  # fmt: skip
    store = Store(tmp_path / "store")
    publish(store, measurement=measurement.model_copy(update={"sparse": sparse}), packed=packed)
    monkeypatch.setattr(runtime_choice, "sparse_library", lambda: Library(Path("lib.so"), "avx2", 1))
    counts = [worker_count(Settings(store=store.root, threads=16, runtime=one), PLENTY) for one in ("auto", "onnx")]
    assert counts == [14, 3]
    here = sparse.model_copy(update={"isa": "avx2"})
    monkeypatch.setattr(runtime_choice, "instruction_sets", lambda: ())
    store = Store(tmp_path / "measured here")
    publish(store, measurement=measurement.model_copy(update={"sparse": here}), packed=packed)
    assert worker_count(Settings(store=store.root, threads=16), PLENTY) == 3


def test_setting_takes_precedence(tmp_path: Path) -> None:
    assert count(tmp_path, 0.004, threads=16, workers=3) == 3


def test_one_worker_if_the_model_was_not_measured(tmp_path: Path) -> None:
    assert count(tmp_path, None, threads=16) == 1
    assert worker_count(Settings(store=tmp_path / "none", threads=16), PLENTY) == 1
    assert count(tmp_path, 0.004, threads=16, store_url="memory://store") == 1


def test_workers_fit_into_the_memory(tmp_path: Path) -> None:
    assert count(tmp_path, 0.004, 6 * (WORKER_BYTES + SMALL_MODEL_BYTES), threads=16) == 3
    assert count(tmp_path, 0.004, 1, threads=16) == 1


def test_workers_fit_into_max_model_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundle = publish(store, measurement=measured(0.004))
    size = bundle.manifest.files["model.onnx"].bytes
    assert worker_count(Settings(store=store.root, threads=16, max_model_bytes=2 * size), PLENTY) == 2
