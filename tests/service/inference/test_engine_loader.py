"""Choice of the runtime of a bundle: measured, checked on its sample, with a logged fallback."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from starlette.testclient import TestClient

from sparserve.kernels.library import find_library
from sparserve.models.bundle import inference as runtime
from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.runtime_choice import RuntimeDecision, RuntimeSeconds
from sparserve.models.bundle.store import Store
from sparserve.models.errors import BundleError
from sparserve.service.app import create_app
from sparserve.service.inference.engine_loader import load_engine
from sparserve.service.inference.runtime_measurement import RuntimeMeasurements
from sparserve.service.settings import Settings

OPTIONS = {"threads": 1, "sample_tolerance": 0.02}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("sparse_runtime")]


@pytest.fixture
def publish(tiny_store: Path, tmp_path: Path) -> Any:
    """A bundle of the tiny store's sparse60, with changes, in a separate store."""

    def make(
        *,
        preferred: bool = True,
        isa: str | None = None,
        sparse_model: Any = None,
        variant: str = "sparse60",
        **changes: Any,
    ) -> Any:
        source = Store(tiny_store).open("tiny", variant)
        measured = source.manifest.measurement
        sparse = measured.sparse.model_copy(update={"preferred": preferred, "isa": isa or measured.sparse.isa})
        changes = {"measurement": measured.model_copy(update={"sparse": sparse}), **changes}
        files = {name: source.folder / name for name in (MODEL, SPARSE_MODEL, TOKENIZER)}
        if sparse_model is not None:
            files[SPARSE_MODEL] = sparse_model
        shutil.rmtree(tmp_path / "store", ignore_errors=True)  # what is there is kept, but for a newer measurement
        return Store(tmp_path / "store").publish(source.manifest.model_copy(update=changes), files)

    return make


def test_manifest_measures_both_runtimes(tiny_store: Any) -> None:
    manifest = Store(tiny_store).open("tiny", "sparse60").manifest
    sparse = manifest.measurement.sparse
    assert sparse.same_labels == 1.0
    assert sparse.largest_difference < 1e-4
    assert [(p.batch, p.length) for p in sparse.latency] == [(p.batch, p.length) for p in manifest.measurement.latency]
    faster = [
        (ours.batch, ours.length)
        for ours, theirs in zip(sparse.latency, manifest.measurement.latency, strict=True)
        if ours.p50_seconds < theirs.p50_seconds
    ]
    assert list(sparse.faster_at) == faster
    assert len(sparse.latency) == 1, "of several cells the geometric mean decides"
    assert sparse.preferred == bool(faster)
    assert manifest.packed.values == "fp32"
    assert Store(tiny_store).open("tiny", "dense").manifest.packed is None


def test_load_engine_auto_prefers_faster_runtime(publish: Any) -> None:
    assert load_engine(publish(), **OPTIONS).runtime == "sparse"
    assert load_engine(publish(preferred=False), **OPTIONS).runtime == "onnx"
    assert load_engine(publish(measurement=None), **OPTIONS).runtime == "onnx"


def test_load_engine_keeps_explicit_runtime(publish: Any) -> None:
    assert load_engine(publish(preferred=False), runtime="sparse", **OPTIONS).runtime == "sparse"
    assert load_engine(publish(), runtime="onnx", **OPTIONS).runtime == "onnx"


def test_load_engine_measures_a_bundle_from_other_instruction_sets(publish: Any) -> None:
    seconds = RuntimeSeconds(onnx=0.001, sparse=0.002)
    measurements = RuntimeMeasurements(measure=lambda onnx, sparse: seconds)
    engine = load_engine(publish(isa="another"), measurements=measurements, **OPTIONS)
    assert engine.runtime_decision == RuntimeDecision("onnx", "measured", seconds)
    assert (engine.runtime, engine.graph_file) == ("onnx", MODEL)
    assert load_engine(publish(), measurements=measurements, **OPTIONS).runtime == "sparse"
    assert load_engine(publish(isa="another"), **OPTIONS).runtime == "sparse"


def test_engine_graph_bytes_counts_served_graph(publish: Any) -> None:
    bundle = publish()
    assert load_engine(bundle, **OPTIONS).graph_bytes == bundle.sparse_model_path.stat().st_size
    assert load_engine(bundle, runtime="onnx", **OPTIONS).graph_bytes == bundle.model_path.stat().st_size


def test_load_engine_int8_sample_in_sparse_runtime(publish: Any) -> None:
    engine = load_engine(publish(variant="sparse60-int8"), **OPTIONS)
    assert engine.runtime == "sparse"
    assert engine.sample_difference is not None


def assert_falls_back(bundle: Any, caplog: Any, reason: Any) -> None:
    with caplog.at_level(logging.WARNING):
        engine = load_engine(bundle, **OPTIONS)
    assert engine.runtime == "onnx"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "tiny/sparse60 runs in stock ONNX Runtime" in line
    assert reason in line
    with pytest.raises(BundleError, match=reason):
        load_engine(bundle, runtime="sparse", **OPTIONS)


def test_load_engine_falls_back_without_library(
    publish: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime, "find_library", lambda: find_library(tmp_path / "none.so"))
    assert_falls_back(publish(), caplog, "the sparse runtime is not available: it was not built")


def test_load_engine_refuses_damaged_packed_weights(
    publish: Any, caplog: pytest.LogCaptureFixture, tiny_store: Any
) -> None:
    graph = onnx.load(Store(tiny_store).open("tiny", "sparse60").sparse_model_path)
    (blob,) = (tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8)
    damaged = numpy_helper.to_array(blob).copy()
    damaged[len(damaged) // 2] ^= 1
    blob.CopyFrom(numpy_helper.from_array(damaged, blob.name))
    assert_falls_back(publish(sparse_model=graph.SerializeToString()), caplog, "the checksum is wrong")


def test_load_engine_refuses_different_sparse_model(
    publish: Any, caplog: pytest.LogCaptureFixture, tiny_store: Any
) -> None:
    graph = onnx.load(Store(tiny_store).open("tiny", "sparse60").sparse_model_path)
    (weight,) = (tensor for tensor in graph.graph.initializer if tensor.name == "classifier.weight")
    weight.CopyFrom(numpy_helper.from_array(-3 * numpy_helper.to_array(weight), weight.name))
    assert_falls_back(publish(sparse_model=graph.SerializeToString()), caplog, "logits of its sample differ")


def test_load_engine_later_format(publish: Any, caplog: pytest.LogCaptureFixture, tiny_store: Any) -> None:
    packed = Store(tiny_store).open("tiny", "sparse60").manifest.packed
    assert_falls_back(publish(packed=packed.model_copy(update={"format_version": 99})), caplog, "upgrade sparserve")


def test_runtime_in_models_metrics_and_info(publish: Any, tmp_path: Path) -> None:
    publish()
    app = create_app(Settings(store=tmp_path / "store", threads=1))
    with TestClient(app) as client:
        assert client.portal
        client.portal.call(app.state.service.loaded)
        (variant,) = client.get("/v1/models/tiny").json()["variants"]
        assert variant["runtime"] == "sparse"
        assert variant["runtime_choice"]["source"] == "manifest"
        assert variant["runtime_choice"]["sparse_seconds"] > 0
        assert 'runtime="sparse"' in client.get("/metrics").text
        assert client.get("/info").json()["sparse_runtime"] == find_library().isa
        answer = client.post("/v1/models/tiny/sparse60/classify", json={"inputs": ["good", "bad " * 40]})
        assert answer.status_code == 200
        scores = [row[0]["score"] if isinstance(row, list) else row["score"] for row in answer.json()["predictions"]]
        assert np.isfinite(scores).all()
