"""Export to ONNX and dynamic quantisation."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import ParityError
from sparserve.models.export.onnx_export import METADATA_KEY, set_metadata
from sparserve.models.export.quantization import quantize, quantize_rows
from sparserve.models.export.templates import Templates
from sparserve.models.files import sha256
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import ENCODERS, Exported, classifier, export


@pytest.fixture(scope="module")
def exported(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return a random BERT with a third of its encoder's weights zero, and its graph."""
    model = classifier(make_checkpoint("bert"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder.layer" in name and parameter.ndim == 2:
                parameter.mul_(torch.rand_like(parameter) > 1 / 3)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export(model, path)
    return model, path


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ENCODERS)
def test_export_onnx_matches_torch_for_every_encoder(
    exported_encoder: Callable[[str], Exported], model_type: str
) -> None:
    assert exported_encoder(model_type).difference < 1e-5


def test_export_onnx_names_dimensions_and_sets_the_opset(exported: tuple[Any, Path]) -> None:
    graph = onnx.load(exported[1])
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input}
    assert shapes == {name: ["batch", "length"] for name in ("input_ids", "token_type_ids", "attention_mask")}
    (output,) = graph.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 3]
    assert {opset.domain: opset.version for opset in graph.opset_import} == {"": 20}


def test_export_onnx_keeps_parameter_names_and_zeros(exported: tuple[Any, Path]) -> None:
    model, path = exported
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if values.ndim == 2 or values.any():
            assert np.array_equal(stored[name], values) or np.array_equal(stored[name], values.T), name


@pytest.mark.slow
def test_export_onnx_is_reproducible_and_names_no_paths(
    exported: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = exported
    monkeypatch.setattr("sparserve.models.export.onnx_export.templates", Templates())
    export(model, tmp_path / "again.onnx")
    assert sha256(tmp_path / "again.onnx") == sha256(path)
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert b"/models/" not in content


@pytest.mark.slow
def test_export_onnx_of_another_network_of_this_kind_is_what_tracing_gives(
    exported_encoder: Callable[[str], Exported],
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = exported_encoder("mpnet")
    templates = Templates()
    templates.keep(first.model, [("input_ids", "attention_mask"), 64, 20], onnx.load(first.path))
    monkeypatch.setattr("sparserve.models.export.onnx_export.templates", templates)
    model = classifier(make_checkpoint("mpnet"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer.1" in name and parameter.ndim == 2:
                parameter.zero_()  # equal matrices, which tracing alone would make one
            else:
                parameter.mul_(torch.rand_like(parameter) > 1 / 3)
    export(model, tmp_path / "filled.onnx")
    monkeypatch.setattr("sparserve.models.export.onnx_export.templates", Templates())
    export(model, tmp_path / "traced.onnx")
    assert (tmp_path / "filled.onnx").read_bytes() == (tmp_path / "traced.onnx").read_bytes()
    assert templates.fill(classifier(make_checkpoint("roberta")), [("input_ids",), 64, 20]) is None


@pytest.mark.slow
def test_export_onnx_removes_a_graph_that_differs(exported: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="tolerance"):
        export(exported[0], tmp_path / "model.onnx", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_set_metadata_stores_a_summary_in_the_file(exported: tuple[Any, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported[1].read_bytes())
    set_metadata(path, {"variant": "sparse90"})
    (prop,) = onnx.load(path).metadata_props
    assert prop.key == METADATA_KEY
    assert json.loads(prop.value) == {"variant": "sparse90"}


def test_quantize_removes_the_file_of_a_killed_process(
    exported: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, killed = tmp_path / "working", tmp_path / "killed"
    working.mkdir()

    def die(*arguments: Any, **keywords: Any) -> None:
        shutil.copytree(working, killed)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sparserve.models.export.quantization.quantize_dynamic", die)
        quantize(exported[1], working / "model.onnx", Quantization())
    assert not logging.root.manager.disable, "a failed quantisation silenced all logs"
    assert list(killed.iterdir())
    quantize(exported[1], killed / "model.onnx", Quantization())
    assert [path.name for path in killed.rglob("*")] == ["model.onnx"]


@pytest.mark.parametrize("embeddings", [True, False])
def test_quantize_stays_close_and_keeps_zeros(exported: tuple[Any, Path], tmp_path: Path, embeddings: bool) -> None:
    model, path = exported
    quantize(path, tmp_path / "int8.onnx", Quantization(embeddings=embeddings))
    ids = np.random.default_rng(0).integers(5, 40, (4, 9))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    logits = [OnnxClassifier(p, pad_token_id=0, threads=1).run(inputs) for p in (path, tmp_path / "int8.onnx")]
    assert np.abs(logits[0] - logits[1]).max() < 0.15 * np.abs(logits[0]).max()  # a hidden size of 32 averages little
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    zeros = model.get_parameter(name).detach().numpy().T == 0
    assert stored[f"{name}_quantized"].dtype == np.int8
    assert (stored[f"{name}_quantized"][zeros] == 0).all()
    assert not stored[f"{name}_zero_point"].any()
    assert ("bert.embeddings.word_embeddings.weight_quantized" in stored) == embeddings


def test_quantize_rows_error_is_at_most_half_a_scale() -> None:
    table = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    table[3] = 0
    values, scales = quantize_rows(table)
    assert (np.abs(values * scales[:, None] - table) <= scales[:, None] * 0.5001).all()
    assert not values[3].any()
