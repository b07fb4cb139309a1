"""Quantisation of weights: linears to int8 per channel, embeddings to int8 per row or the token table to 4 bits.

ONNX Runtime's dynamic quantiser handles linears. Activations are quantised at run time, with one scale per tensor.
Zeros stay exact zeros, so sparsity is preserved.
"""

import logging
import math
import warnings
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from sparserve.models.errors import CheckpointError
from sparserve.models.export.token_table import BASIS, replace_node, token_lookup
from sparserve.models.recipes.schema import Quantization

Bits = Literal[4, 8]
MAX_BLOCK: Final = 32  # entries that share a scale at 4 bits
MIN_BLOCK: Final = 16


def quantize(source: Path, target: Path, quantization: Quantization) -> None:
    """Write the fp32 graph `source` as int8 to `target`.

    With `reduce_range`, weights have 7 bits. Then 8-bit products cannot saturate on CPUs without VNNI, and all CPUs
    give the same logits.
    """
    graph = onnx.load(str(source))
    if quantization.embeddings:
        quantize_embeddings(graph, token_bits=quantization.embedding_bits)
    # A fixed name: the next attempt overwrites and removes the file of a killed process.
    embedded = target.with_name("embeddings.onnx")
    onnx.save(graph, str(embedded))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # the quantiser recommends a pre-processing that this graph does not need
        try:
            quantize_dynamic(
                embedded,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                reduce_range=quantization.reduce_range,
                weight_type=QuantType.QInt8,
                # The columns of a factorised table differ too much in size for one scale.
                nodes_to_exclude=[node.name for node in graph.graph.node if any(i.endswith(BASIS) for i in node.input)],
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
        finally:
            logging.disable(logging.NOTSET)
    embedded.unlink()


def quantize_embeddings(graph: onnx.ModelProto, *, token_bits: Bits = 8) -> None:
    """Quantise, in place, every float table that is used for look-ups only.

    At 8 bits, `Gather(W, ids)` becomes `Cast(Gather(W_quantized, ids)) * Gather(W_scale, ids)`. Quantisation is
    symmetric per row, so the error of an entry is at most half of its row's scale, max|row| / 127. With `token_bits` 4,
    the token table has two codes per byte (`quantize_blocks`), unless its width is not divisible by 16. The basis of a
    factorised table has 8 bits, as in `quantize_weights`.
    """
    tables = {t.name: t for t in graph.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    lookups = [n for n in graph.graph.node if n.op_type == "Gather" and n.input[0] in tables and _axis(n) == 0]
    users: dict[str, int] = {}
    for node in graph.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    four_bit_table = _token_table(graph.graph) if token_bits == 4 else None
    replaced: set[str] = set()
    for node in lookups:
        table = tables[node.input[0]]
        if users[table.name] != sum(lookup.input[0] == table.name for lookup in lookups):
            continue
        four_bits = table.name == four_bit_table and math.gcd(table.dims[1], MAX_BLOCK) >= MIN_BLOCK
        if table.name not in replaced:
            graph.graph.initializer.extend(_nibbles(table) if four_bits else _codes(table))
            replaced.add(table.name)
        replace_node(graph.graph, node, _look_up_nibbles(node) if four_bits else _look_up_codes(node))
    for name in replaced:
        graph.graph.initializer.remove(tables[name])
    quantize_weights(graph, ending=BASIS)


def quantize_weights(graph: onnx.ModelProto, *, ending: str = "") -> None:
    """Store the float weights of linears, in place, as int8 codes with a scale per output; arithmetic stays float32.

    ONNX Runtime dequantises the codes when it loads the graph, so the file becomes smaller, but not the memory. This is
    for the few linears outside of a packed encoder. Only weights whose names end in `ending` are changed.
    """
    weights = {t.name: t for t in graph.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    for node in [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")]:
        name = node.input[1]
        if name not in weights or not name.endswith(ending):
            continue
        weight = weights.pop(name)
        outputs_first = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        values = numpy_helper.to_array(weight)
        codes, scales = quantize_rows(values if outputs_first else values.T)
        codes, scales = (codes, scales[:, None]) if outputs_first else (codes.T, scales[None])
        graph.graph.initializer.remove(weight)
        graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(codes), f"{name}_quantized"))
        graph.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
        real = f"{name}_real"
        nodes = [
            helper.make_node("Cast", [f"{name}_quantized"], [real], name=f"{name}/cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [real, f"{name}_scale"], [name], name=f"{name}/dequantize"),
        ]
        first = next(other for other in graph.graph.node if name in other.input)
        replace_node(graph.graph, first, [*nodes, first])


def quantize_rows(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 codes [n, width] and float32 scales [n] of rows [n, width]; a row of zeros has the scale 1."""
    scales = np.abs(table).max(axis=1) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(table / scales[:, None]).astype(np.int8), scales


def quantize_blocks(
    table: npt.NDArray[np.float32], block: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Return 4-bit codes [n, width / block, block / 2] and float16 scales [n, width / block, 1] of rows [n, width].

    The low halves of a block's bytes are the codes of the first half of its entries, the high halves those of the
    second half. An entry is (code - 8) * scale, where code - 8 is between -8 and 7. The sign of the scale is chosen so
    that the entry with the largest magnitude has the code 0, which stands for -8. The scale is max|block| / 8; the
    error of an entry is about half a scale and at most one scale.
    """
    blocks = table.reshape(len(table), -1, block)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    scales = (largest / np.float32(-8)).astype(np.float16)
    scales[scales == 0] = 1
    codes = (np.rint(blocks / scales.astype(np.float32)).clip(-8, 7) + 8).astype(np.uint8)
    low, high = np.split(codes, 2, axis=2)
    return np.bitwise_or(low, np.left_shift(high, 4), dtype=np.uint8), scales


def _token_table(graph: onnx.GraphProto) -> str | None:
    try:
        return str(token_lookup(graph).input[0])
    except CheckpointError:
        return None


def _codes(table: TensorProto) -> list[TensorProto]:
    values, scales = quantize_rows(numpy_helper.to_array(table))
    return [
        numpy_helper.from_array(values, f"{table.name}_quantized"),
        numpy_helper.from_array(scales[:, None], f"{table.name}_scale"),
    ]


def _look_up_codes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    name, ids, output = node.input[0], node.input[1], node.output[0]
    rows, scale, real = f"{output}_rows", f"{output}_row_scale", f"{output}_real"
    return [
        helper.make_node("Gather", [f"{name}_quantized", ids], [rows], name=f"{output}/rows", axis=0),
        helper.make_node("Gather", [f"{name}_scale", ids], [scale], name=f"{output}/scale", axis=0),
        helper.make_node("Cast", [rows], [real], name=f"{output}/cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [real, scale], [output], name=f"{output}/dequantize"),
    ]


def _nibbles(table: TensorProto) -> list[TensorProto]:
    nibbles, scales = quantize_blocks(numpy_helper.to_array(table), math.gcd(table.dims[1], MAX_BLOCK))
    constants = {
        "nibbles": nibbles,
        "scale": scales,
        "four": np.array(4, np.uint8),
        "eight": np.array(8, np.float32),
        "joined": np.array([0, 0, -1]),
    }
    return [numpy_helper.from_array(values, f"{table.name}_{part}") for part, values in constants.items()]


def _look_up_nibbles(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes that compute rows [batch, length, width] from two codes per byte."""
    name, ids, output = node.input[0], node.input[1], node.output[0]
    operations: list[tuple[str, list[str], str, dict[str, str | int]]] = [
        ("Gather", [f"{name}_nibbles", ids], "bytes", {"axis": 0}),
        ("Gather", [f"{name}_scale", ids], "halves", {"axis": 0}),
        ("BitShift", [f"{output}_bytes", f"{name}_four"], "shifted", {"direction": "LEFT"}),
        ("BitShift", [f"{output}_shifted", f"{name}_four"], "low", {"direction": "RIGHT"}),
        ("BitShift", [f"{output}_bytes", f"{name}_four"], "high", {"direction": "RIGHT"}),
        ("Concat", [f"{output}_low", f"{output}_high"], "codes", {"axis": -1}),
        ("Cast", [f"{output}_codes"], "real", {"to": TensorProto.FLOAT}),
        ("Sub", [f"{output}_real", f"{name}_eight"], "signed", {}),
        ("Cast", [f"{output}_halves"], "scales", {"to": TensorProto.FLOAT}),
        ("Mul", [f"{output}_signed", f"{output}_scales"], "blocks", {}),
    ]
    nodes = [
        helper.make_node(operator, inputs, [f"{output}_{result}"], name=f"{output}/{result}", **attributes)
        for operator, inputs, result, attributes in operations
    ]
    nodes.append(helper.make_node("Reshape", [f"{output}_blocks", f"{name}_joined"], [output], name=f"{output}/joined"))
    return nodes


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
