"""Quantised embedding tables and weights of linears."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.export.quantization import quantize_blocks, quantize_embeddings, quantize_weights
from sparserve.models.export.statistics import sparsity
from tests.support.models.exporting import Exported

TABLE = "bert.embeddings.word_embeddings.weight"


def logits(path: Path) -> np.ndarray:
    ids = np.random.default_rng(0).integers(5, 40, (3, 9))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return OnnxClassifier(path, pad_token_id=0, threads=1).run(inputs)


def reals(codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> np.ndarray:
    """Return the rows [n, width] that 4-bit codes stand for."""
    both = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - 8
    return (both * scales.astype(np.float32)).reshape(len(codes), -1)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 20), blocks=st.integers(1, 3), block=st.sampled_from([16, 32]))
def test_quantize_blocks_error_is_at_most_a_scale(seed: int, rows: int, blocks: int, block: int) -> None:
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(rows, blocks * block)).astype(np.float32) * generator.choice([0, 1e-3, 10])
    codes, scales = quantize_blocks(table, block)
    assert codes.shape == (rows, blocks, block // 2)
    assert scales.shape == (rows, blocks, 1)
    difference = np.abs(reals(codes, scales) - table).reshape(rows, blocks, block)
    step = np.abs(scales.astype(np.float32))
    assert (difference <= 1.01 * step).all()
    # The largest entry has the code 0, which represents it almost exactly.
    largest = np.abs(table).reshape(rows, blocks, block).argmax(axis=2, keepdims=True)
    assert (np.take_along_axis(difference, largest, axis=2) <= 0.01 * step).all()


def test_quantize_embeddings_looks_up_four_bit_codes(bert: Exported, tmp_path: Path) -> None:
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
    (quantized,) = (tensor for tensor in sparsity(tmp_path / "four.onnx").tensors if tensor.name == TABLE)
    (whole,) = (tensor for tensor in sparsity(tmp_path / "rounded.onnx").tensors if tensor.name == TABLE)
    assert (quantized.bits, quantized.group, quantized.shape, quantized.nonzero) == (
        4,
        "embedding",
        whole.shape,
        whole.nonzero,
    )


def keep_in_float(graph: onnx.ModelProto, *names: str) -> None:
    """Add a second use to these tables, so that they are not quantised."""
    for tensor in graph.graph.initializer:
        if any(name in tensor.name for name in names):
            graph.graph.node.append(onnx.helper.make_node("Neg", [tensor.name], [f"{tensor.name}_negative"]))


def test_quantize_embeddings_uses_four_bits_for_the_token_table_only(bert: Exported) -> None:
    graph = onnx.load(bert.path)
    quantize_embeddings(graph, token_bits=4)
    stored = {tensor.name for tensor in graph.graph.initializer}
    assert f"{TABLE}_nibbles" in stored
    assert "bert.embeddings.position_embeddings.weight_quantized" in stored


def test_quantize_embeddings_keeps_eight_bits_without_whole_blocks(bert: Exported) -> None:
    graph = onnx.load(bert.path)
    (table,) = (tensor for tensor in graph.graph.initializer if tensor.name == TABLE)
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:, :24], TABLE))
    quantize_embeddings(graph, token_bits=4)
    assert f"{TABLE}_quantized" in {tensor.name for tensor in graph.graph.initializer}


def test_quantize_weights_computes_in_float(bert: Exported, tmp_path: Path) -> None:
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


def test_quantize_weights_has_a_scale_per_output(bert: Exported) -> None:
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
