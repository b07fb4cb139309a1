"""Conversion of an exported graph to model.sparse.onnx, which has the encoder as one operator of the sparse runtime.

Encoder weights are located in the graph by torch's parameter names. Embeddings and head stay as they are, so they may
be those of any architecture.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sparserve.kernels.packed_format import ENCODER, PackingError, read_records
from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from sparserve.kernels.unpacking import parts
from sparserve.kernels.weights import Activation, EncoderWeights, LayerWeights, LinearWeights, NormWeights
from sparserve.models.bundle.manifest import Packed
from sparserve.models.encoders.architectures.registry import ARCHITECTURES
from sparserve.models.errors import CheckpointError
from sparserve.models.export.quantization import Bits, quantize_embeddings, quantize_weights

DOMAIN: Final = "sparserve"
OPSET: Final = 1
IR_VERSION: Final = 9  # the latest that ONNX Runtime 1.17 reads, the oldest release that the library supports
BLOB: Final = "encoder.packed"

_RELATIVE_BIAS: Final = "relative_attention_bias.weight"
_UNARY: Final = frozenset({"Transpose", "Unsqueeze", "Expand", "Identity", "Cast"})


def write_sparse_graph(
    source: Path, target: Path, *, head_size: int, values: Values, embeddings_int8: bool, token_bits: Bits = 8
) -> Packed:
    """Write `source` (fp32, from `export_onnx`) with a packed encoder to `target`; return a summary of the packing.

    Raises:
        CheckpointError: the sparse runtime does not support the graph's encoder, or its weights cannot be packed.
    """
    graph = onnx.load(str(source))
    packed = pack_graph(graph, head_size=head_size, options=PackOptions(values=values))
    if embeddings_int8:
        quantize_embeddings(graph, token_bits=token_bits)
    if values == "int8":
        quantize_weights(graph)
    onnx.save(graph, str(target))
    return packed.model_copy(update={"bytes": target.stat().st_size})


def pack_graph(graph: onnx.ModelProto, *, head_size: int, options: PackOptions) -> Packed:
    """Replace the encoder of a classifier's graph by one `SparseEncoder` node, in place.

    Raises:
        CheckpointError: the sparse runtime does not support the graph's encoder, or its weights cannot be packed.
    """
    encoder = _Encoder.find(graph.graph)
    weights = encoder.weights(head_size)
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


@dataclass(frozen=True)
class _Encoder:
    """The encoder within a graph: its parameters, its input tensor and its output tensor."""

    graph: onnx.GraphProto
    tensors: Mapping[str, onnx.TensorProto]
    layers: tuple[tuple[str, ...], ...]  # parameter prefixes of each layer, in the order of LayerWeights
    input: str
    output: str

    @classmethod
    def find(cls, graph: onnx.GraphProto) -> "_Encoder":
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        layers: list[tuple[str, ...]] = []
        for names in _layer_names():
            first = next((name for name in tensors if name.endswith(f".0.{names[0]}.weight")), None)
            if first is None:
                continue
            stack = first.removesuffix(f".0.{names[0]}.weight")
            while f"{stack}.{len(layers)}.{names[0]}.weight" in tensors:
                layers.append(tuple(f"{stack}.{len(layers)}.{name}" for name in names))
            break
        if not layers or "attention_mask" not in {value.name for value in graph.input}:
            raise CheckpointError("The graph has no BERT-like encoder that the sparse runtime supports.")
        first_query = _reader(graph.node, f"{layers[0][0]}.weight")
        last_norm = _reader(graph.node, f"{layers[-1][7]}.weight")
        return cls(graph, tensors, tuple(layers), first_query.input[0], last_norm.output[0])

    def weights(self, head_size: int) -> EncoderWeights:
        norm = _reader(self.graph.node, f"{self.layers[0][4]}.weight")
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        return EncoderWeights(tuple(map(self._layer, self.layers)), head_size, self._activation(), epsilon)

    def position_bias(self, weights: EncoderWeights) -> str | None:
        """Return the tensor [1 or batch, heads, query, key] that MPNet adds to the scores of all layers, if any."""
        table = next((name for name in self.tensors if name.endswith(_RELATIVE_BIAS)), None)
        if table is None:
            return None
        width = self.tensors[table].dims[1] * weights.head_size
        if any(layer.query.weight.shape[0] != width for layer in weights.layers):
            raise CheckpointError(
                "This network cannot be packed: its layers have different heads, but the sparse runtime adds the same "
                "relative position bias in all layers. model.onnx serves it; keep all heads to have it packed."
            )
        tensor: str = _reader(self.graph.node, table).output[0]
        while True:
            readers = [node for node in self.graph.node if tensor in node.input]
            if len(readers) == 1 and readers[0].op_type in _UNARY:
                tensor = readers[0].output[0]
            else:
                return tensor

    def only_first_token_is_read(self) -> bool:
        """Return True if every reader of the encoder's output uses position 0 only, as most classification heads do."""
        readers = [node for node in self.graph.node if self.output in node.input]
        return bool(readers) and all(map(self._takes_first, readers))

    def _takes_first(self, node: onnx.NodeProto) -> bool:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        index = self.tensors.get(node.input[1]) if node.op_type == "Gather" else None
        return axis == 1 and index is not None and not numpy_helper.to_array(index).any()

    def _layer(self, names: tuple[str, ...]) -> LayerWeights:
        query, key, value, attention_output, attention_norm, intermediate, output, output_norm = names
        return LayerWeights(
            self._linear(query),
            self._linear(key),
            self._linear(value),
            self._linear(attention_output),
            self._norm(attention_norm),
            self._linear(intermediate),
            self._linear(output),
            self._norm(output_norm),
        )

    def _linear(self, name: str) -> LinearWeights:
        weight = np.ascontiguousarray(self._stored(f"{name}.weight").T)
        bias = self.tensors.get(f"{name}.bias") or self._added_to(f"{name}.weight")
        return LinearWeights(weight, None if bias is None else numpy_helper.to_array(bias))

    def _added_to(self, weight: str) -> onnx.TensorProto | None:
        """Return the bias that is added to the product with `weight`; equal biases may share a tensor."""
        product = _reader(self.graph.node, weight).output[0]
        sums = [node for node in self.graph.node if node.op_type == "Add" and product in node.input]
        return next((self.tensors[name] for node in sums for name in node.input if name in self.tensors), None)

    def _norm(self, name: str) -> NormWeights:
        return NormWeights(self._stored(f"{name}.weight"), self._stored(f"{name}.bias"))

    def _stored(self, name: str) -> npt.NDArray[np.float32]:
        if name not in self.tensors:
            raise CheckpointError(
                f"The graph has no tensor {name}; an equal one may have replaced it. Export the network again."
            )
        values: npt.NDArray[np.float32] = numpy_helper.to_array(self.tensors[name])
        return values

    def _activation(self) -> Activation:
        """Return the activation between the first layer's intermediate linear and its output linear."""
        tensor = _reader(self.graph.node, f"{self.layers[0][5]}.weight").output[0]
        for _ in range(2):  # the first node may add the bias
            node = _reader(self.graph.node, tensor)
            if node.op_type in ("Gelu", "Relu") and not self._feeds_output(node.output[0]):
                break  # only a part of the activation, as in squared ReLU
            if node.op_type == "Gelu":
                approximate = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
                return "gelu_tanh" if approximate == b"tanh" else "gelu"
            if node.op_type == "Relu":
                return "relu"
            tensor = node.output[0]
        raise CheckpointError("The sparse runtime does not support the encoder's activation, only GELU and ReLU.")

    def _feeds_output(self, tensor: str) -> bool:
        """Return True if the first layer's output linear is the only reader of a tensor."""
        readers = [node for node in self.graph.node if tensor in node.input]
        return [f"{self.layers[0][6]}.weight" in node.input for node in readers] == [True]


def _layer_names() -> list[tuple[str, ...]]:
    """Return the module names of a layer's parameters in each architecture, in the order of LayerWeights."""
    layers = [architecture.layer for architecture in ARCHITECTURES.values() if architecture.packable]
    names = [
        (
            layer.query.module,
            layer.key.module,
            layer.value.module,
            layer.attention_output,
            layer.norms[0],
            layer.intermediate.module,
            layer.output,
            layer.norms[1],
        )
        for layer in layers
    ]
    return list(dict.fromkeys(names))


def _reader(nodes: Iterable[onnx.NodeProto], tensor: str) -> Any:
    node = next((node for node in nodes if tensor in node.input), None)
    if node is None:
        raise CheckpointError(f"The sparse runtime does not support this encoder: the graph does not use {tensor}.")
    return node


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
