"""Zeros, operations and bytes of ONNX files."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig, ElectraConfig

from sparserve.models.errors import BundleError
from sparserve.models.export.statistics import flops, sizes, sparsity

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
FFN = "distilbert.transformer.layer.11.ffn.lin1.weight"


def write(path: Path, constants: Mapping[str, Any], uses: Mapping[str, str]) -> Path:
    """Write a graph with these initializers; `uses` maps each to the operator that reads it."""
    nodes = []
    for name, operator in uses.items():
        inputs = ["ids", name] if operator != "Gather" else [name, "ids"]
        nodes.append(helper.make_node(operator, inputs, [f"{name}/out"]))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [ids], [out], initializers)), str(path))
    return path


def with_zeros(shape: int | tuple[int, ...], zeros: int, dtype: Any = np.float32, zero: int = 0) -> np.ndarray:
    values = np.full(shape, 3, dtype=dtype)
    values.reshape(-1)[:zeros] = zero
    return values


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    constants = {
        "bert.embeddings.word_embeddings.weight": with_zeros((20, 4), 4),
        QUERY: with_zeros((4, 4), 12),
        "bert.encoder.layer.0.attention.self.query.bias": with_zeros(4, 1),
        "bert.encoder.layer.0.attention.output.LayerNorm.weight": with_zeros(4, 0),
        FFN: with_zeros((4, 8), 1),
        "bert.pooler.dense.weight": with_zeros((4, 4), 2),
        "classifier.weight": with_zeros((4, 3), 0),
        "bert.embeddings.position_ids": np.arange(512)[None],
        "shape": np.array([1, -1]),
        "attention_scale": np.array(0.5, dtype=np.float32),
        "flag": np.array([True]),
    }
    uses = {
        "bert.embeddings.word_embeddings.weight": "Gather",
        QUERY: "MatMul",
        FFN: "MatMul",
        "bert.pooler.dense.weight": "Gemm",
        "classifier.weight": "Gemm",
        "bert.embeddings.position_ids": "Gather",
    }
    return write(tmp_path / "model.onnx", constants, uses)


def test_sparsity_counts_and_groups_tensors(fp32: Path) -> None:
    counted = sparsity(fp32)
    by_name = {tensor.name: tensor for tensor in counted.tensors}
    assert {name: tensor.group for name, tensor in by_name.items()} == {
        "bert.embeddings.word_embeddings.weight": "embedding",
        QUERY: "encoder_linear",
        "bert.encoder.layer.0.attention.self.query.bias": "other",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight": "other",
        FFN: "encoder_linear",
        "bert.pooler.dense.weight": "other_linear",
        "classifier.weight": "other_linear",
    }
    assert (by_name[QUERY].nonzero, by_name[QUERY].shape, by_name[QUERY].bits) == (4, (4, 4), 32)
    assert (by_name[QUERY].pattern, by_name[FFN].pattern) == ("unstructured", "dense")
    # A bias of zeros was not pruned.
    assert by_name["bert.encoder.layer.0.attention.self.query.bias"].pattern == "dense"


def test_sparsity_sums_densities_per_group(fp32: Path) -> None:
    counted = sparsity(fp32)
    assert (counted.encoder_linear.parameters, counted.encoder_linear.nonzero) == (48, 35)
    assert (counted.all_linear.parameters, counted.all_linear.nonzero) == (48 + 28, 35 + 26)
    assert (counted.whole_model.parameters, counted.whole_model.nonzero) == (48 + 28 + 80 + 8, 35 + 26 + 76 + 7)


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.3.output.dense.weight",
        "roberta.encoder.layer.0.intermediate.dense.weight",
        "electra.encoder.layer.2.attention.self.key.weight",
        "mpnet.encoder.layer.1.attention.attn.q.weight",
        "deberta.encoder.layer.0.attention.self.query_proj.weight",
        "distilbert.transformer.layer.5.attention.q_lin.weight",
        "model.layers.21.mlp.Wi.weight",
        "transformer.h.7.attn.c_attn.weight",
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight",
    ],
)
def test_sparsity_recognises_encoder_linears_by_name(tmp_path: Path, name: str) -> None:
    (tensor,) = sparsity(write(tmp_path / "m.onnx", {name: with_zeros((2, 2), 0)}, {name: "MatMul"})).tensors
    assert tensor.group == "encoder_linear"


@pytest.mark.parametrize(
    ("name", "operator", "group"),
    [
        ("classifier.dense.weight", "MatMul", "other_linear"),
        ("pre_classifier.weight", "Gemm", "other_linear"),
        ("electra.embeddings_project.weight", "MatMul", "other_linear"),
        ("mpnet.encoder.relative_attention_bias.weight", "Gather", "embedding"),
        ("roberta.embeddings.token_type_embeddings.weight", "Add", "embedding"),
        ("val_17", "Add", "other"),
    ],
)
def test_sparsity_groups_other_matrices_by_use_and_name(tmp_path: Path, name: str, operator: str, group: str) -> None:
    (tensor,) = sparsity(write(tmp_path / "m.onnx", {name: with_zeros((2, 2), 0)}, {name: operator})).tensors
    assert tensor.group == group


def test_sparsity_compares_int8_codes_with_their_zero_point(tmp_path: Path) -> None:
    constants = {
        f"{QUERY}_quantized": with_zeros((4, 2), 6, np.int8),
        f"{QUERY}_zero_point": np.zeros(2, np.int8),
        f"{QUERY}_scale": np.ones(2, np.float32),
        f"{FFN}_quantized": with_zeros((2, 4), 5, np.uint8, zero=128),
        f"{FFN}_zero_point": np.array(128, np.uint8),
        "bert.embeddings.word_embeddings.weight_quantized": with_zeros((5, 2), 1, np.int8),
        "bert.embeddings.word_embeddings.weight_scale": np.ones((5, 1), np.float32),
    }
    uses = {
        f"{QUERY}_quantized": "MatMulInteger",
        f"{FFN}_quantized": "MatMulInteger",
        "bert.embeddings.word_embeddings.weight_quantized": "Gather",
        "bert.embeddings.word_embeddings.weight_scale": "Gather",
    }
    counted = sparsity(write(tmp_path / "m.onnx", constants, uses))
    by_name = {tensor.name: tensor for tensor in counted.tensors}
    assert (by_name[QUERY].nonzero, by_name[QUERY].bits, by_name[QUERY].group) == (2, 8, "encoder_linear")
    assert by_name[FFN].nonzero == 3
    assert by_name["bert.embeddings.word_embeddings.weight"].group == "embedding"
    assert by_name["bert.embeddings.word_embeddings.weight_scale"].group == "other"
    assert counted.whole_model.parameters == 8 + 2 + 8 + 10 + 5  # codes and scales, no zero points


def test_sparsity_reads_zero_points_per_row_and_per_column(tmp_path: Path) -> None:
    codes = np.array([[1, 1, 1], [2, 2, 2]], np.int8)
    for points, nonzero in (([1, 2], 0), ([1, 2, 5], 4)):
        constants = {f"{QUERY}_quantized": codes, f"{QUERY}_zero_point": np.array(points, np.int8)}
        (tensor,) = sparsity(write(tmp_path / "m.onnx", constants, {f"{QUERY}_quantized": "MatMulInteger"})).tensors
        assert tensor.nonzero == nonzero


def test_sparsity_reads_16_bit_floats_and_4_bit_integers(tmp_path: Path) -> None:
    constants = {"half": np.zeros((2, 2), np.float16), "brain": np.ones(3, ml_dtypes.bfloat16)}
    constants["four"] = np.array([[0, 1], [2, 3]], ml_dtypes.int4)
    tensors = sparsity(write(tmp_path / "m.onnx", constants, {"half": "MatMul"})).tensors
    assert {t.name: (t.bits, t.nonzero) for t in tensors} == {"half": (16, 0), "brain": (16, 3), "four": (4, 3)}


def test_flops_follow_the_formula(fp32: Path) -> None:
    counted = flops(sparsity(fp32), BertConfig(num_hidden_layers=2, hidden_size=4), length=10)
    attention = 2 * 4 * 10**2 * 4
    assert counted.dense == attention + 2 * 48 * 10 + 2 * 28
    assert counted.effective == attention + 2 * 35 * 10 + 2 * 26
    assert counted.length == 10


def test_flops_of_an_embedding_projection_count_every_token(tmp_path: Path) -> None:
    name = "electra.embeddings_project.weight"
    counted = sparsity(write(tmp_path / "m.onnx", {name: with_zeros((3, 4), 2)}, {name: "MatMul"}))
    assert flops(counted, ElectraConfig(num_hidden_layers=0), length=10).dense == 2 * 12 * 10


def test_sizes_are_plain_and_compressed_bytes(tmp_path: Path) -> None:
    content = bytes(3 * 2**20) + np.random.default_rng(0).bytes(1000)
    (tmp_path / "m.onnx").write_bytes(content)
    counted = sizes(tmp_path / "m.onnx")
    assert counted.onnx == len(content)
    assert abs(counted.onnx_zipped - len(zlib.compress(content, 6))) < 64
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_sparsity_refuses_a_file_that_is_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"m\.onnx is not an ONNX graph"):
        sparsity(tmp_path / "m.onnx")
