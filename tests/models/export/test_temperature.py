"""A temperature folded into the last linear of a graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.onnx_export import random_inputs
from sparserve.models.export.quantization import quantize
from sparserve.models.export.temperature import divide_logits
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import TRACED, Exported


def logits(path: Path) -> Any:
    names = OnnxClassifier(path, pad_token_id=0, threads=1).input_names
    inputs = random_inputs(4, 9, 60, 0, tuple(names), seed=0)
    return OnnxClassifier(path, pad_token_id=0, threads=1).run({name: ids.numpy() for name, ids in inputs.items()})


@pytest.mark.parametrize("model_type", TRACED)
def test_divide_logits_divides_those_of_every_encoder(
    model_type: str, exported_encoder: Callable[[str], Exported], tmp_path: Path
) -> None:
    exported = exported_encoder(model_type)
    graph, int8, divided = (tmp_path / name for name in ("model.onnx", "int8.onnx", "divided.onnx"))
    graph.write_bytes(exported.path.read_bytes())
    quantize(graph, int8, Quantization())
    divide_logits(graph, 2.5)
    quantize(graph, divided, Quantization())
    np.testing.assert_allclose(logits(graph), logits(exported.path) / 2.5, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits(divided), logits(int8) / 2.5, rtol=1e-4, atol=1e-5)


def linear_graph(path: Path, *nodes: onnx.NodeProto, **tensors: list[Any]) -> None:
    stored = [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in tensors.items()]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]) for name in ("states", "logits")]
    graph = helper.make_graph(list(nodes), "linear", [shapes[0]], [shapes[1]], stored)
    onnx.save(helper.make_model(graph), str(path))


def test_divide_logits_divides_weight_and_bias(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    nodes = (
        helper.make_node("MatMul", ["states", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    )
    linear_graph(path, *nodes, weight=[[1, 2], [3, 4]], bias=[5, 6])
    divide_logits(path, 2.0)
    stored = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in onnx.load(path).graph.initializer}
    assert stored == {"weight": [[0.5, 1], [1.5, 2]], "bias": [2.5, 3]}


def test_divide_logits_refuses_logits_of_another_operator(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    linear_graph(path, helper.make_node("Softmax", ["states"], ["logits"]))
    with pytest.raises(CheckpointError, match="set temperature_scaling to false"):
        divide_logits(path, 2.0)


def test_divide_logits_refuses_a_weight_with_another_use(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    nodes = (
        helper.make_node("MatMul", ["states", "weight"], ["product"]),
        helper.make_node("MatMul", ["product", "weight"], ["logits"]),
    )
    linear_graph(path, *nodes, weight=torch.eye(2).tolist())
    with pytest.raises(CheckpointError, match="do not come from a linear"):
        divide_logits(path, 2.0)
