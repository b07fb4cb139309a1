"""Conversion of an exported graph to model.sparse.onnx, which has the encoder as one operator of the sparse runtime.

Embeddings and head stay as they are.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparserve.kernels.packed_format import ENCODER, PackingError, read_records
from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from sparserve.kernels.unpacking import parts
from sparserve.models.bundle.manifest import Packed
from sparserve.models.errors import CheckpointError
from sparserve.models.export.graph_encoder import GraphEncoder
from sparserve.models.export.quantization import Bits, quantize_embeddings, quantize_weights

DOMAIN: Final = "sparserve"
OPSET: Final = 1
IR_VERSION: Final = 9  # the latest that ONNX Runtime 1.17 reads, the oldest release that the library supports
BLOB: Final = "encoder.packed"


def write_sparse_graph(
    source: Path,
    target: Path,
    *,
    config: Any,
    values: Values,
    embeddings_int8: bool,
    token_bits: Bits = 8,
    max_length: int | None = None,
) -> Packed:
    """Write `source` (fp32, from `export_onnx`) with a packed encoder to `target`; return a summary of the packing.

    Encoders with tables of positions take texts of `max_length` tokens, or as long as `config` allows.

    Raises:
        CheckpointError: the sparse runtime does not support the graph's encoder, or its weights cannot be packed.
    """
    graph = onnx.load(str(source))
    packed = pack_graph(graph, config=config, options=PackOptions(values=values), max_length=max_length)
    if embeddings_int8:
        quantize_embeddings(graph, token_bits=token_bits)
    if values == "int8":
        quantize_weights(graph)
    onnx.save(graph, str(target))
    return packed.model_copy(update={"bytes": target.stat().st_size})


def pack_graph(graph: onnx.ModelProto, *, config: Any, options: PackOptions, max_length: int | None = None) -> Packed:
    """Replace the encoder of a classifier's graph by one `SparseEncoder` node, in place.

    Raises:
        CheckpointError: the sparse runtime does not support the graph's encoder, or its weights cannot be packed.
    """
    encoder = GraphEncoder.find(graph.graph, config)
    weights = encoder.weights(max_length)
    bias = encoder.position_bias(weights)
    try:
        blob = pack_encoder(weights, options)
    except PackingError as error:
        raise CheckpointError(f"The encoder cannot be packed: {error}") from error
    first_token_only = encoder.only_first_token_is_read()
    inputs = [encoder.input, "attention_mask", BLOB]
    replacement = []
    if bias is not None:
        # The operator vectorises over queries: [1 or batch, heads, key, query].
        replacement.append(helper.make_node("Transpose", [bias], [f"{bias}_by_key"], perm=[0, 1, 3, 2]))
        inputs.append(f"{bias}_by_key")
    replacement.append(
        helper.make_node(
            "SparseEncoder",
            inputs,
            [encoder.output],
            name="encoder",
            domain=DOMAIN,
            first_token_only=int(first_token_only),
        )
    )
    nodes = list(graph.graph.node)
    last = next(index for index, node in enumerate(nodes) if encoder.output in node.output)
    nodes[last : last + 1] = replacement
    graph.graph.initializer.append(numpy_helper.from_array(np.frombuffer(blob, np.uint8), BLOB))
    _keep_used(graph.graph, nodes)
    graph.opset_import.append(helper.make_opsetid(DOMAIN, OPSET))
    graph.ir_version = min(graph.ir_version, IR_VERSION)
    return _summarize(blob, options, first_token_only)


def _summarize(blob: bytes, options: PackOptions, first_token_only: bool) -> Packed:
    stored = list(parts(blob))
    return Packed(
        format_version=read_records(blob, ENCODER)[0].version,
        opset_version=OPSET,
        values=options.values,
        bytes=0,
        encoder_bytes=len(blob),
        index_bytes=sum(part.index_bytes for part in stored),
        value_bytes=sum(part.value_bytes for part in stored),
        layouts={
            layout: sum(part.layout == layout for part in stored)
            for layout in sorted({part.layout for part in stored if part.layout != "vector"})
        },
        first_token_only=first_token_only,
    )


def _keep_used(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Set the graph's nodes to those of `nodes` that its outputs need, and drop unused initializers."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
