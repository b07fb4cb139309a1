"""`models.initializers`: equal parameters of a network are told apart, in the graph and in all that is made of it."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.export.initializers import name_initializers, told_apart
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.statistics import sparsity
from tests.support.models.exporting import classifier, export

# What a high sparsity over all layers together can leave of a layer, and what has no counterpart in another.
EMPTY = (
    "0.attention.self.query", "0.attention.self.key", "0.intermediate.dense", "1.intermediate.dense", "1.output.dense",
)  # fmt: skip


@pytest.fixture
def emptied(make_checkpoint):
    """A BERT some of whose matrices are all zero, as are its biases; its LayerNorms do nothing."""
    model = classifier(make_checkpoint("bert"))
    with torch.no_grad():
        for name, linear in encoder_linears(model).items():
            if name.endswith(EMPTY):
                linear.weight.zero_()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(float(name.endswith("LayerNorm.weight")))
    return model


def same_parameters(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_equal_parameters_are_stored_counted_packed_and_computed_each_on_its_own(emptied, sparse_runtime, tmp_path):
    path, packed_path = tmp_path / "model.onnx", tmp_path / "model.sparse.onnx"
    assert export(emptied, path) < 1e-5
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    linears = encoder_linears(emptied)
    for name, parameter in emptied.named_parameters():
        if ".layer." in name:
            values = parameter.detach().numpy()
            of_linear = name.removesuffix(".weight") in linears
            assert np.array_equal(stored[name], values.T if of_linear else values), name

    counted = sparsity(path).encoder_linear
    assert counted.parameters == sum(linear.weight.numel() for linear in linears.values())
    assert counted.nonzero == sum(int((linear.weight != 0).sum()) for linear in linears.values())

    size = emptied.config.hidden_size // emptied.config.num_attention_heads
    packed = write_sparse_graph(path, packed_path, head_size=size, values="fp32", embeddings_int8=False)
    assert sum(packed.layouts.values()) == len(linears)
    ids = np.random.default_rng(0).integers(5, emptied.config.vocab_size, (3, 21))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    stock = OnnxClassifier(path, pad_token_id=0, threads=1).run(inputs)
    sparse = OnnxClassifier(packed_path, pad_token_id=0, threads=1, library=sparse_runtime.path).run(inputs)
    assert np.abs(sparse - stock).max() < 1e-5


def test_parameters_that_are_equal_or_each_others_transpose_differ_within_the_block_alone(emptied):
    before = copy.deepcopy(emptied.state_dict())
    with told_apart(emptied) as held:
        inside = copy.deepcopy(emptied.state_dict())
    assert same_parameters(before, emptied.state_dict())
    assert same_parameters(held, before)
    assert {name for name, values in inside.items() if not torch.equal(values, before[name])} == set(held)
    assert {f"bert.encoder.layer.{name}.weight" for name in EMPTY} <= set(held)
    assert "bert.encoder.layer.1.attention.self.query.weight" not in held
    found = [
        view.contiguous().numpy().tobytes() + str(tuple(view.shape)).encode()
        for values in (inside[name] for name, _ in emptied.named_parameters())
        for view in ([values, values.T] if values.ndim == 2 else [values])
    ]
    assert len(found) == len(set(found))


def test_an_export_that_fails_leaves_the_network_as_it_was(emptied):
    before = copy.deepcopy(emptied.state_dict())
    with pytest.raises(RuntimeError, match="in between"), told_apart(emptied):
        raise RuntimeError("in between")
    assert same_parameters(before, emptied.state_dict())


def test_a_parameter_that_two_modules_share_is_one(network):
    model = copy.deepcopy(network)
    first, second = model.bert.encoder.layer
    second.output.dense.weight = first.output.dense.weight
    with told_apart(model) as held:
        assert "bert.encoder.layer.0.output.dense.weight" not in held


def test_held_values_take_their_places_in_the_orientation_of_those_that_they_replace():
    generator = np.random.default_rng(0)
    square, wide, other = (generator.normal(size=shape).astype(np.float32) for shape in ((3, 3), (2, 3), (3,)))
    stored = {"val_1": square.T, "model.second": wide, "val_3": other, "position": np.arange(3)}
    node = helper.make_node("Sum", list(stored), ["sum"])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in stored.items()]
    graph = helper.make_model(helper.make_graph([node], "g", [], [], tensors))
    real = np.arange(9, dtype=np.float32).reshape(3, 3)
    parameters = {name: torch.tensor(values) for name, values in (("first", square), ("second", wide), ("x", other))}
    name_initializers(graph, parameters, {"first": torch.tensor(real)}, prefix="model.")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert list(found) == list(graph.graph.node[0].input) == ["first", "second", "x", "position"]
    assert np.array_equal(found["first"], real.T)
    assert np.array_equal(found["second"], wide)
