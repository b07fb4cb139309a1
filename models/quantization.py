"""Int8: linears by onnxruntime's dynamic quantiser, per channel; embedding tables with one scale a row.

Activations are quantised at run time, a scale a tensor. Stored zeros stay exact zeros, so sparsity survives.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from models.recipe import Quantization


def quantize(source: Path, target: Path, quantization: Quantization) -> None:
    """Write `source` (fp32 ONNX) as int8 to `target`.

    With `reduce_range`, weights take 7 bits: the 8-bit products of CPUs without VNNI cannot saturate then, and every
    CPU gives the same answers.
    """
    graph = onnx.load(str(source))
    if quantization.embeddings:
        quantize_embeddings(graph)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # it advises a pre-processing that this graph does not need
        embedded = Path(folder) / "embeddings.onnx"
        onnx.save(graph, str(embedded))
        quantize_dynamic(
            embedded,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=quantization.reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        logging.disable(logging.NOTSET)


def quantize_embeddings(graph: onnx.ModelProto) -> None:
    """Replace every float table that is only looked up by int8 rows and a float scale a row, in place.

    `Gather(W, ids)` becomes `Cast(Gather(W_quantized, ids)) * Gather(W_scale, ids)`. Rows are symmetric, so an entry
    is off by at most half of its row's scale, max|row| / 127.
    """
    tables = {t.name: t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2}
    lookups = [n for n in graph.graph.node if n.op_type == "Gather" and n.input[0] in tables and _axis(n) == 0]
    users: dict[str, int] = {}
    for node in graph.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    replaced: set[str] = set()
    for node in lookups:
        table = tables[node.input[0]]
        if users[table.name] != sum(lookup.input[0] == table.name for lookup in lookups):
            continue
        name, ids, output = table.name, node.input[1], node.output[0]
        if name not in replaced:
            values, scales = quantize_rows(numpy_helper.to_array(table))
            graph.graph.initializer.append(numpy_helper.from_array(values, f"{name}_quantized"))
            graph.graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{name}_scale"))
            replaced.add(name)
        rows, scale, real = f"{output}_rows", f"{output}_scale", f"{output}_real"
        nodes = [
            helper.make_node("Gather", [f"{name}_quantized", ids], [rows], name=f"{output}/rows", axis=0),
            helper.make_node("Gather", [f"{name}_scale", ids], [scale], name=f"{output}/scale", axis=0),
            helper.make_node("Cast", [rows], [real], name=f"{output}/cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [real, scale], [output], name=f"{output}/dequantize"),
        ]
        position = list(graph.graph.node).index(node)
        graph.graph.node.remove(node)
        for offset, new in enumerate(nodes):
            graph.graph.node.insert(position + offset, new)
    for name in replaced:
        graph.graph.initializer.remove(tables[name])


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, width] float32 -> int8 [n, width] and scales [n] float32; a row of zeros has the scale 1."""
    scales = np.abs(table).max(axis=1) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(table / scales[:, None]).astype(np.int8), scales


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
