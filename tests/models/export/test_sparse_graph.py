import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparserve.kernels.unpacking import unpack_encoder
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.quantization import quantize
from sparserve.models.export.sparse_graph import BLOB, write_sparse_graph
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import ENCODERS


@pytest.fixture(scope="module")
def library(sparse_runtime):
    return sparse_runtime.path


def head_size(model):
    return model.config.hidden_size // model.config.num_attention_heads


def answers(path, model, library=None):
    """Logits of texts of several lengths, padded together."""
    classifier = OnnxClassifier(path, pad_token_id=model.config.pad_token_id, threads=1, library=library)
    generator = np.random.default_rng(0)
    mask = (np.arange(40) < np.array([[40], [1], [17], [33]])).astype(np.int64)
    ids = np.where(mask, generator.integers(5, model.config.vocab_size, (4, 40)), model.config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return classifier.run({name: value for name, value in inputs.items() if name in classifier.input_names})


def pack(model, folder, values="fp32", source="model.onnx"):
    target = folder / f"{values}.onnx"
    size = head_size(model)
    packed = write_sparse_graph(
        folder / source, target, head_size=size, values=values, embeddings_int8=values == "int8"
    )
    return target, packed


def encoder_in(path):
    """The packed encoder of a graph."""
    (blob,) = (tensor for tensor in onnx.load(path).graph.initializer if tensor.name == BLOB)
    return unpack_encoder(numpy_helper.to_array(blob).tobytes())


@pytest.fixture(scope="module", params=ENCODERS)
def exported(request, exported_encoder):
    """Every encoder: a sparse model, the folder of its graph, and the graph's answers."""
    made = exported_encoder(request.param)
    return made.model, made.path.parent, answers(made.path, made.model)


def test_every_encoder_says_the_same_in_the_sparse_runtime(library, exported):
    model, folder, expected = exported
    target, packed = pack(model, folder)
    assert packed.layouts == {"unstructured": 12}
    assert packed.first_token_only
    assert packed.bytes == target.stat().st_size
    assert np.abs(answers(target, model, library) - expected).max() < 1e-5


def test_int8_is_off_by_no_more_than_onnxruntimes_own(library, exported):
    model, folder, expected = exported
    quantize(folder / "model.onnx", folder / "stock.onnx", Quantization())
    stock = np.abs(answers(folder / "stock.onnx", model) - expected).mean()
    target, packed = pack(model, folder, "int8")
    assert packed.values == "int8"
    # Random weights five times their usual size make a chaotic network: means over few logits scatter widely.
    assert np.abs(answers(target, model, library) - expected).mean() < 2 * stock + 0.02


@pytest.fixture(scope="module")
def bert(exported_encoder):
    """A sparse BERT and the folder of its graph."""
    made = exported_encoder("bert")
    return made.model, made.path.parent


def with_activation(bert, folder, operator, **attributes):
    """BERT's graph in `folder` with another activation in its feed-forwards."""
    model, exported = bert
    graph = onnx.load(exported / "model.onnx")
    for node in graph.graph.node:
        if node.op_type == "Gelu":
            node.op_type = operator
            del node.attribute[:]
            node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    onnx.save(graph, folder / "model.onnx")
    return model


@pytest.mark.parametrize(
    ("operator", "attributes", "packed_as"),
    [("Relu", {}, "relu"), ("Gelu", {"approximate": "tanh"}, "gelu_tanh"), ("Gelu", {"approximate": "none"}, "gelu")],
)
def test_activations_say_the_same(library, bert, tmp_path, operator, attributes, packed_as):
    model = with_activation(bert, tmp_path, operator, **attributes)
    target, _ = pack(model, tmp_path)
    assert encoder_in(target).activation == packed_as
    expected = answers(tmp_path / "model.onnx", model)
    assert np.abs(answers(target, model, library) - expected).max() < 1e-5


def test_an_activation_that_the_runtime_does_not_know_is_refused(bert, tmp_path):
    model = with_activation(bert, tmp_path, "Mish")
    with pytest.raises(CheckpointError, match="activation is none that the sparse runtime knows"):
        pack(model, tmp_path)


def test_a_bias_that_several_linears_share_is_in_all_of_them(library, bert, tmp_path):
    """A graph may have one tensor for biases that are equal, under one of their names."""
    model, folder = bert
    graph = onnx.load(folder / "model.onnx")
    own, shared = (f"bert.encoder.layer.{index}.attention.self.query.bias" for index in (1, 0))
    (node,) = (node for node in graph.graph.node if own in node.input)
    node.input[list(node.input).index(own)] = shared
    graph.graph.initializer.remove(next(tensor for tensor in graph.graph.initializer if tensor.name == own))
    onnx.save(graph, tmp_path / "model.onnx")
    target, _ = pack(model, tmp_path)
    first, second = (layer.query.bias for layer in encoder_in(target).layers)
    assert np.array_equal(first, second)
    expected = answers(tmp_path / "model.onnx", model)
    assert np.abs(answers(target, model, library) - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["intermediate.dense.weight", "output.LayerNorm.bias"])
def test_a_graph_in_which_another_tensor_stands_for_a_weight_is_refused(bert, tmp_path, name):
    model, folder = bert
    graph = onnx.load(folder / "model.onnx")
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == f"bert.encoder.layer.1.{name}")
    for node in graph.graph.node:
        node.input[:] = ["val_126" if read == tensor.name else read for read in node.input]
    tensor.name = "val_126"
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=rf"no tensor bert\.encoder\.layer\.1\.{name}: another.*export"):
        pack(model, tmp_path)


def test_the_oldest_runtime_that_the_library_works_in_reads_the_file(bert):
    model, folder = bert
    target, _ = pack(model, folder)
    assert onnx.load(target).ir_version <= 9  # of ONNX 1.15, which onnxruntime 1.17 has


def test_packed_weights_are_the_checkpoints(bert):
    model, tmp_path = bert
    target, _ = pack(model, tmp_path)
    unpacked = encoder_in(target)
    for found, layer in zip(unpacked.layers, model.bert.encoder.layer, strict=True):
        assert np.array_equal(found.query.weight, layer.attention.self.query.weight.detach().numpy())
        assert np.array_equal(found.output.weight, layer.output.dense.weight.detach().numpy())
        assert np.array_equal(found.output_norm.bias, layer.output.LayerNorm.bias.detach().numpy())
    assert unpacked.activation == "gelu"


def test_nothing_that_is_not_needed_stays_in_the_file(bert):
    model, tmp_path = bert
    target, _ = pack(model, tmp_path)
    graph = onnx.load(target).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert not [node for node in graph.node if node.op_type in ("Softmax", "MatMul")]


def test_a_head_that_reads_all_tokens_gets_all_tokens(library, bert):
    model, tmp_path = bert
    graph = onnx.load(tmp_path / "model.onnx")
    (gather,) = (
        n for n in graph.graph.node if n.op_type == "Gather" and any(a.name == "axis" and a.i for a in n.attribute)
    )
    gather.op_type = "ReduceMean"  # mean pooling in place of the first token
    del gather.attribute[:]
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1]), "second_axis"))
    gather.input[1] = "second_axis"
    gather.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    onnx.save(graph, tmp_path / "mean.onnx")
    target, packed = pack(model, tmp_path, source="mean.onnx")
    assert not packed.first_token_only
    ids = np.random.default_rng(0).integers(5, model.config.vocab_size, (3, 21))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    expected = OnnxClassifier(tmp_path / "mean.onnx", pad_token_id=0, threads=1).run(inputs)
    found = OnnxClassifier(target, pad_token_id=0, threads=1, library=library).run(inputs)
    assert np.abs(found - expected).max() < 1e-5


def test_a_graph_without_a_known_encoder_is_refused(tmp_path):
    from tests.tiny_bundles import graph

    (tmp_path / "model.onnx").write_bytes(graph())
    with pytest.raises(CheckpointError, match="no BERT-like encoder"):
        write_sparse_graph(
            tmp_path / "model.onnx", tmp_path / "sparse.onnx", head_size=4, values="fp32", embeddings_int8=False
        )
    assert not (tmp_path / "sparse.onnx").exists()


@pytest.mark.parametrize("activation", ["relu2", "gelu_10", "silu"])
def test_an_activation_that_only_begins_as_a_known_one_is_refused(changed_bert, tmp_path, activation):
    path, model = changed_bert(hidden_act=activation)
    with pytest.raises(CheckpointError, match="activation is none that the sparse runtime knows"):
        write_sparse_graph(
            path, tmp_path / "sparse.onnx", head_size=head_size(model), values="fp32", embeddings_int8=False
        )
