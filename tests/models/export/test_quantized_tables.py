import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.export.quantization import quantize_blocks, quantize_embeddings, quantize_weights
from sparserve.models.export.statistics import sparsity

TABLE = "bert.embeddings.word_embeddings.weight"


def logits(path):
    ids = np.random.default_rng(0).integers(5, 40, (3, 9))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return OnnxClassifier(path, pad_token_id=0, threads=1).run(inputs)


def reals(codes, scales):
    """What codes of 4 bits stand for: rows [n, width]."""
    both = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - 8
    return (both * scales.astype(np.float32)).reshape(len(codes), -1)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 20), blocks=st.integers(1, 3), block=st.sampled_from([16, 32]))
def test_four_bits_are_off_by_at_most_a_scale(seed, rows, blocks, block):
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(rows, blocks * block)).astype(np.float32) * generator.choice([0, 1e-3, 10])
    codes, scales = quantize_blocks(table, block)
    assert codes.shape == (rows, blocks, block // 2)
    assert scales.shape == (rows, blocks, 1)
    difference = np.abs(reals(codes, scales) - table).reshape(rows, blocks, block)
    step = np.abs(scales.astype(np.float32))
    assert (difference <= 1.01 * step).all()
    # All 16 codes are in use, the largest entry has one that is nearly its own.
    largest = np.abs(table).reshape(rows, blocks, block).argmax(axis=2, keepdims=True)
    assert (np.take_along_axis(difference, largest, axis=2) <= 0.01 * step).all()


def test_a_table_of_four_bits_is_what_the_graph_looks_up(bert, tmp_path):
    graph = onnx.load(bert.path)
    (table,) = (tensor for tensor in graph.graph.initializer if tensor.name == TABLE)
    codes, scales = quantize_blocks(numpy_helper.to_array(table), 32)
    table.CopyFrom(numpy_helper.from_array(reals(codes, scales), TABLE))
    onnx.save(graph, tmp_path / "rounded.onnx")
    graph = onnx.load(bert.path)
    keep_in_float(graph, "position_embeddings", "token_type_embeddings")
    quantize_embeddings(graph, token_bits=4)
    onnx.save(graph, tmp_path / "four.onnx")
    assert np.abs(logits(tmp_path / "four.onnx") - logits(tmp_path / "rounded.onnx")).max() < 1e-5
    (found,) = (tensor for tensor in sparsity(tmp_path / "four.onnx").tensors if tensor.name == TABLE)
    (whole,) = (tensor for tensor in sparsity(tmp_path / "rounded.onnx").tensors if tensor.name == TABLE)
    assert (found.bits, found.group, found.shape, found.nonzero) == (4, "embedding", whole.shape, whole.nonzero)


def keep_in_float(graph, *names):
    """Give these tables a second use, so that they are not only looked up."""
    for tensor in graph.graph.initializer:
        if any(name in tensor.name for name in names):
            graph.graph.node.append(onnx.helper.make_node("Neg", [tensor.name], [f"{tensor.name}_negative"]))


def test_only_the_token_table_takes_four_bits(bert):
    graph = onnx.load(bert.path)
    quantize_embeddings(graph, token_bits=4)
    stored = {tensor.name for tensor in graph.graph.initializer}
    assert f"{TABLE}_nibbles" in stored
    assert "bert.embeddings.position_embeddings.weight_quantized" in stored


def test_a_width_without_blocks_keeps_eight_bits(bert):
    graph = onnx.load(bert.path)
    (table,) = (tensor for tensor in graph.graph.initializer if tensor.name == TABLE)
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:, :24], TABLE))
    quantize_embeddings(graph, token_bits=4)
    assert f"{TABLE}_quantized" in {tensor.name for tensor in graph.graph.initializer}


def test_codes_of_linears_are_computed_with_in_float(bert, tmp_path):
    graph = onnx.load(bert.path)
    quantize_weights(graph)
    onnx.save(graph, tmp_path / "codes.onnx")
    expected = logits(bert.path)
    assert np.abs(logits(tmp_path / "codes.onnx") - expected).mean() < 0.05 * np.abs(expected).max()
    before = {tensor.name: (tensor.group, tensor.nonzero) for tensor in sparsity(bert.path).tensors}
    for tensor in sparsity(tmp_path / "codes.onnx").tensors:
        if tensor.bits == 8:
            group, nonzero = before[tensor.name]
            assert tensor.group == group
            assert 0.95 * nonzero < tensor.nonzero <= nonzero  # rounding makes a few more zeros
    assert tmp_path.joinpath("codes.onnx").stat().st_size < bert.path.stat().st_size


def test_outputs_are_scaled_each_by_their_own(bert):
    graph = onnx.load(bert.path)
    quantize_weights(graph)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for name, parameter in bert.model.named_parameters():
        if f"{name}_quantized" in stored:
            weight = parameter.detach().numpy()
            codes, scales = stored[f"{name}_quantized"], stored[f"{name}_scale"]
            reals = codes * scales
            reals = reals if codes.shape == weight.shape and scales.shape[1] == 1 else reals.T
            assert (np.abs(reals - weight) <= 0.5001 * scales.reshape(-1, 1)).all(), name
    assert sum(name.endswith("_quantized") for name in stored) == 14  # two layers, pooler and classifier
