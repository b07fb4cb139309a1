from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers.pytorch_utils import prune_linear_layer

from benchmarks.kernels.dense_encoders import (
    TOLERANCE,
    EncoderShape,
    encoder_linears,
    export_fused,
    export_plain,
    quantize_fused,
    random_classifier,
)
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import ParityError

TINY = EncoderShape("tiny", layers=2, hidden=32, heads=4, intermediate=64, vocabulary=100)


def operators(path: Any) -> Any:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def inputs(batch: Any, length: Any) -> Any:
    """Return random tokens; the second half of the last row is padding."""
    generator = np.random.default_rng(0)
    mask = np.ones((batch, length), dtype=np.int64)
    mask[-1, length // 2 :] = 0
    ids = generator.integers(1, TINY.vocabulary, (batch, length))
    types = generator.integers(0, 2, (batch, length))
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}


def torch_logits(model: Any, values: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in values.items()}).logits.numpy()


def test_fused_graph_has_one_attention_per_layer_and_equals_torch(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0)
    path = tmp_path / "fused.onnx"
    assert export_fused(model, path) < TOLERANCE
    expected = {"Attention": 2, "Gelu": 2, "LayerNormalization": 4, "EmbedLayerNormalization": 1, "Softmax": 0}
    assert {name: operators(path)[name] for name in expected} == expected
    classifier = OnnxClassifier(path, pad_token_id=0, threads=1)
    for shape in ((1, 2), (5, 19)):
        values = inputs(*shape)
        assert classifier.run(values) == pytest.approx(torch_logits(model, values), abs=1e-5)


def test_plain_graph_has_standard_operators_only(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0, head_fraction=0.5)
    assert export_plain(model, tmp_path / "plain.onnx") < TOLERANCE
    graph = onnx.load(tmp_path / "plain.onnx")
    assert {opset.domain: opset.version for opset in graph.opset_import} == {"": 14}


def test_export_fused_removes_graph_that_differs(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0)
    model.bert.encoder.layer[0].attention.self.scaling = 50.0  # the graph has the usual one
    with pytest.raises(ParityError, match="differ"):
        export_fused(model, tmp_path / "fused.onnx")
    assert not (tmp_path / "fused.onnx").exists()


def test_export_fused_rejects_other_activation(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0)
    model.config.hidden_act = "relu"
    with pytest.raises(ValueError, match="relu"):
        export_fused(model, tmp_path / "fused.onnx")


def test_quantize_fused_leaves_no_float_linear(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0, head_fraction=0.5, ffn_fraction=0.25)
    export_fused(model, tmp_path / "fused.onnx")
    quantize_fused(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    counts = operators(tmp_path / "int8.onnx")
    # three linears a layer beside QAttention's own, the pooler and the classifier
    assert (counts["QAttention"], counts["MatMulInteger"]) == (2, 3 * 2 + 2)
    assert not counts["Attention"] + counts["MatMul"] + counts["Gemm"]
    values = inputs(3, 17)
    logits = OnnxClassifier(tmp_path / "int8.onnx", pad_token_id=0, threads=1).run(values)
    assert logits == pytest.approx(torch_logits(model, values), abs=0.03)


def test_random_classifier_squeezes_layers(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0, head_fraction=0.5, ffn_fraction=0.25)
    shapes = {name.removeprefix("layer.0."): tuple(linear.weight.shape) for name, linear in encoder_linears(model)}
    assert shapes["attention.self.query"] == (16, 32)
    assert shapes["attention.output.dense"] == (32, 16)
    assert shapes["intermediate.dense"] == (16, 32)
    assert shapes["output.dense"] == (32, 16)
    export_fused(model, tmp_path / "squeezed.onnx")
    assert operators(tmp_path / "squeezed.onnx")["Attention"] == 2


def test_fused_graph_supports_different_widths(tmp_path: Path) -> None:
    model = random_classifier(TINY, seed=0)
    layer = model.bert.encoder.layer[1]
    for name in ("query", "key", "value"):
        smaller = prune_linear_layer(getattr(layer.attention.self, name), torch.arange(8))
        setattr(layer.attention.self, name, smaller)
    layer.attention.output.dense = prune_linear_layer(layer.attention.output.dense, torch.arange(8), dim=1)
    export_fused(model, tmp_path / "uneven.onnx")
    nodes = [node for node in onnx.load(tmp_path / "uneven.onnx").graph.node if node.op_type == "Attention"]
    assert [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "num_heads"] == [4, 1]
