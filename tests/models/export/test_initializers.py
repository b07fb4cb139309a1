"""Names and values of exported parameters, also of equal ones."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from sparserve.kernels.library import Library
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.export.initializers import distinct_parameters, name_initializers
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.statistics import sparsity
from tests.support.models.exporting import classifier, export

# Matrices that become zero: high global sparsity can prune whole matrices, in equal and in different positions.
EMPTY = (
    "0.attention.self.query", "0.attention.self.key", "0.intermediate.dense", "1.intermediate.dense", "1.output.dense",
)  # fmt: skip


@pytest.fixture
def emptied(make_checkpoint: Callable[..., Path]) -> Any:
    """Return a BERT in which some matrices and all biases are zero, and LayerNorms have no effect."""
    model = classifier(make_checkpoint("bert"))
    with torch.no_grad():
        for name, linear in encoder_linears(model).items():
            if name.endswith(EMPTY):
                linear.weight.zero_()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(float(name.endswith("LayerNorm.weight")))
    return model


def same_parameters(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_equal_parameters_are_exported_separately(emptied: Any, sparse_runtime: Library, tmp_path: Path) -> None:
    path, packed_path = tmp_path / "model.onnx", tmp_path / "model.sparse.onnx"
    assert export(emptied, path) < 1e-5
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    linears = encoder_linears(emptied)
    for name, parameter in emptied.named_parameters():
        if ".layer." in name:
            values = parameter.detach().numpy()
            transposed = name.removesuffix(".weight") in linears
            assert np.array_equal(stored[name], values.T if transposed else values), name

    counted = sparsity(path).encoder_linear
    assert counted.parameters == sum(linear.weight.numel() for linear in linears.values())
    assert counted.nonzero == sum(int((linear.weight != 0).sum()) for linear in linears.values())

    packed = write_sparse_graph(path, packed_path, config=emptied.config, values="fp32", embeddings_int8=False)
    assert sum(packed.layouts.values()) == len(linears)
    ids = np.random.default_rng(0).integers(5, emptied.config.vocab_size, (3, 21))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    stock = OnnxClassifier(path, pad_token_id=0, threads=1).run(inputs)
    sparse = OnnxClassifier(packed_path, pad_token_id=0, threads=1, library=sparse_runtime.path).run(inputs)
    assert np.abs(sparse - stock).max() < 1e-5


def test_distinct_parameters_differ_within_the_block_only(emptied: Any) -> None:
    before = copy.deepcopy(emptied.state_dict())
    with distinct_parameters(emptied) as originals:
        inside = copy.deepcopy(emptied.state_dict())
    assert same_parameters(before, emptied.state_dict())
    assert same_parameters(originals, before)
    assert {name for name, values in inside.items() if not torch.equal(values, before[name])} == set(originals)
    assert {f"bert.encoder.layer.{name}.weight" for name in EMPTY} <= set(originals)
    assert "bert.encoder.layer.1.attention.self.query.weight" not in originals
    contents = [
        view.contiguous().numpy().tobytes() + str(tuple(view.shape)).encode()
        for values in (inside[name] for name, _ in emptied.named_parameters())
        for view in ([values, values.T] if values.ndim == 2 else [values])
    ]
    assert len(contents) == len(set(contents))


def test_distinct_parameters_restores_values_after_an_error(emptied: Any) -> None:
    before = copy.deepcopy(emptied.state_dict())
    with pytest.raises(RuntimeError, match="in between"), distinct_parameters(emptied):
        raise RuntimeError("in between")
    assert same_parameters(before, emptied.state_dict())


def test_distinct_parameters_ignores_shared_parameters(network: Any) -> None:
    model = copy.deepcopy(network)
    first, second = model.bert.encoder.layer
    second.output.dense.weight = first.output.dense.weight
    with distinct_parameters(model) as originals:
        assert "bert.encoder.layer.0.output.dense.weight" not in originals


def test_name_initializers_restores_values_in_their_orientation() -> None:
    generator = np.random.default_rng(0)
    square, wide, other = (generator.normal(size=shape).astype(np.float32) for shape in ((3, 3), (2, 3), (3,)))
    stored = {"val_1": square.T, "model.second": wide, "val_3": other, "position": np.arange(3)}
    node = helper.make_node("Sum", list(stored), ["sum"])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in stored.items()]
    graph = helper.make_model(helper.make_graph([node], "g", [], [], tensors))
    real = np.arange(9, dtype=np.float32).reshape(3, 3)
    parameters = {name: torch.tensor(values) for name, values in (("first", square), ("second", wide), ("x", other))}
    name_initializers(graph, parameters, {"first": torch.tensor(real)}, prefix="model.")
    renamed = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert list(renamed) == list(graph.graph.node[0].input) == ["first", "second", "x", "position"]
    assert np.array_equal(renamed["first"], real.T)
    assert np.array_equal(renamed["second"], wide)
