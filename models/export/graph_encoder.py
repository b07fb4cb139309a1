"""The encoder within an exported graph: its weights, and the tensors that go in and out of it.

Weights are located by torch's parameter names, which the exporter keeps, and are those of model.onnx to the last bit.
Their roles, and what no tensor says (heads, bands, frequencies), come from the registry of architectures and the
configuration. `sparse_parity` compares the logits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from sparserve.kernels.weights import (
    Activation,
    EncoderWeights,
    Floats,
    LayerWeights,
    LinearWeights,
    NormWeights,
    RelativePositions,
)
from sparserve.models.encoders.architectures.architecture import Architecture, LayerAttention, Rows
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.errors import CheckpointError
from sparserve.models.export.relative_positions import relative_positions

_RELATIVE_BIAS: Final = "relative_attention_bias.weight"
_UNARY: Final = frozenset({"Transpose", "Unsqueeze", "Expand", "Identity", "Cast"})


@dataclass(frozen=True)
class GraphEncoder:
    """The encoder of a graph: its architecture, its parameters, its input tensor and its output tensor."""

    architecture: Architecture
    config: Any
    graph: onnx.GraphProto
    tensors: Mapping[str, onnx.TensorProto]
    stack: str  # of the layers; parameters of layer 0 begin with `stack.0.`
    layers: int
    input: str
    output: str

    @classmethod
    def find(cls, graph: onnx.GraphProto, config: Any) -> "GraphEncoder":
        """Locate the encoder of a classifier with such a configuration.

        Raises:
            CheckpointError: the graph has none that the sparse runtime supports.
        """
        architecture = architecture_of(config)
        names = architecture.layer
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        suffix = f"{architecture.stack}.0.{names.query.module}.weight"
        first = next((name for name in tensors if name == suffix or name.endswith(f".{suffix}")), None)
        if first is None or "attention_mask" not in {value.name for value in graph.input}:
            raise CheckpointError("The graph has no BERT-like encoder that the sparse runtime supports.")
        stack = first.removesuffix(f".0.{names.query.module}.weight")
        layers = 0
        while f"{stack}.{layers}.{names.query.module}.weight" in tensors:
            layers += 1
        entry, last = f"{stack}.0.{names.norms[0]}.weight", f"{stack}.{layers - 1}.{names.norms[1]}.weight"
        if not architecture.norm_first or entry not in tensors:
            entry = f"{stack}.0.{names.value.module}.weight"  # that of queries may also project relative positions
        if architecture.final_norm is not None:
            last = f"{stack.removesuffix(architecture.stack)}{architecture.final_norm}.weight"
        return cls(
            architecture,
            config,
            graph,
            tensors,
            stack,
            layers,
            _reader(graph.node, entry).input[0],
            _reader(graph.node, last).output[0],
        )

    def weights(self, positions: int | None = None) -> EncoderWeights:
        """Return the encoder's weights and settings.

        An encoder that computes something for each position gets as many as `positions`, or as the configuration has.

        Raises:
            CheckpointError: the sparse runtime does not support the encoder.
        """
        names, size = self.architecture.layer, self.head_size
        attention = self.architecture.attention(self.config)
        if len(attention) < self.layers:
            raise CheckpointError(f"The graph has {self.layers} layers, but the configuration {len(attention)}.")
        longest = positions or self.architecture.longest_text(self.config)
        relative = self._relative(longest) if self.architecture.positions == "disentangled" else None
        bounded = relative is not None or any(layer.theta is not None for layer in attention)
        norm = _reader(self.graph.node, f"{self.stack}.0.{names.norms[1]}.weight")
        return EncoderWeights(
            tuple(self._layer(index, attention[index]) for index in range(self.layers)),
            size,
            self._activation(),
            next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5),
            pre_norm=self.architecture.norm_first,
            final_norm=self._final_norm(),
            positions=longest if bounded else None,
            relative=relative,
        )

    @property
    def head_size(self) -> int:
        """Number of features of an attention head."""
        return int(self.config.hidden_size) // int(self.config.num_attention_heads)

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

    def _relative(self, positions: int) -> RelativePositions:
        base = self.stack.removesuffix(self.architecture.stack)
        own = {name.removeprefix(base): name for name in self.tensors if not name.startswith(f"{self.stack}.")}
        stored = {name: self._stored(own[name]) for name in own if name.startswith("encoder.")}
        return relative_positions(stored, self.config, positions)

    def _layer(self, index: int, attention: LayerAttention) -> LayerWeights:
        names, prefix = self.architecture.layer, f"{self.stack}.{index}."
        return LayerWeights(
            self._linear(prefix, names.query),
            self._linear(prefix, names.key),
            self._linear(prefix, names.value),
            self._linear(prefix, Rows(names.attention_output)),
            self._layer_norm(prefix + names.norms[0]),
            self._linear(prefix, names.intermediate),
            self._linear(prefix, Rows(names.output)),
            self._layer_norm(prefix + names.norms[1]),
            gate=None if names.gate is None else self._linear(prefix, names.gate),
            rotary=None if attention.theta is None else _frequencies(attention.theta, attention.factor, self.head_size),
            band=attention.band,
        )

    def _linear(self, prefix: str, rows: Rows) -> LinearWeights:
        name = prefix + rows.module
        weight = np.split(self._stored(f"{name}.weight").T, rows.groups)[rows.group]
        tensor = self.tensors.get(f"{name}.bias") or self._added_to(f"{name}.weight")
        bias = None if tensor is None else np.split(numpy_helper.to_array(tensor), rows.groups)[rows.group]
        return LinearWeights(np.ascontiguousarray(weight), bias)

    def _added_to(self, weight: str) -> onnx.TensorProto | None:
        """Return the bias that is added to the product with `weight`; equal biases may share a tensor."""
        product = _reader(self.graph.node, weight).output[0]
        sums = [node for node in self.graph.node if node.op_type == "Add" and product in node.input]
        return next((self.tensors[name] for node in sums for name in node.input if name in self.tensors), None)

    def _layer_norm(self, name: str) -> NormWeights | None:
        """Return a norm of a layer; None where a pre-norm encoder has none."""
        if self.architecture.norm_first and f"{name}.weight" not in self.tensors:
            return None
        return self._norm(name)

    def _final_norm(self) -> NormWeights | None:
        if self.architecture.final_norm is None:
            return None
        return self._norm(f"{self.stack.removesuffix(self.architecture.stack)}{self.architecture.final_norm}")

    def _norm(self, name: str) -> NormWeights:
        weight = self._stored(f"{name}.weight")
        reader = _reader(self.graph.node, f"{name}.weight")
        return NormWeights(weight, self._stored(f"{name}.bias") if len(reader.input) > 2 else None)

    def _stored(self, name: str) -> npt.NDArray[np.float32]:
        if name not in self.tensors:
            raise CheckpointError(
                f"The graph has no tensor {name}; an equal one may have replaced it. Export the network again."
            )
        values: npt.NDArray[np.float32] = numpy_helper.to_array(self.tensors[name])
        return values

    def _activation(self) -> Activation:
        """Return the activation between the first layer's intermediate linear and its output linear."""
        names = self.architecture.layer
        tensor = _reader(self.graph.node, f"{self.stack}.0.{names.intermediate.module}.weight").output[0]
        for _ in range(3):  # the first nodes may add the bias and separate the gate
            node = _reader(self.graph.node, tensor)
            if node.op_type in ("Gelu", "Relu") and not self._feeds_output(node.output[0]):
                break  # only a part of the activation, as in squared ReLU
            if node.op_type == "Gelu":
                approximate = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
                return "gelu_tanh" if approximate == b"tanh" else "gelu"
            if node.op_type == "Relu":
                return "relu"
            if node.op_type == "Sigmoid" and self._is_silu(tensor, node.output[0]):
                return "silu"
            tensor = node.output[0]
        raise CheckpointError("The sparse runtime does not support the encoder's activation, only GELU, ReLU and SiLU.")

    def _is_silu(self, tensor: str, sigmoid: str) -> bool:
        """Return True if a tensor is multiplied by its sigmoid, and the product is all that is read."""
        readers = [node for node in self.graph.node if sigmoid in node.input]
        return (
            [node.op_type for node in readers] == ["Mul"]
            and set(readers[0].input) == {tensor, sigmoid}
            and self._feeds_output(readers[0].output[0])
        )

    def _feeds_output(self, tensor: str) -> bool:
        """Return True if the first layer's output linear alone reads a tensor, or reads its product with the gate."""
        readers = [node for node in self.graph.node if tensor in node.input]
        if self.architecture.layer.gate is not None and [node.op_type for node in readers] == ["Mul"]:
            readers = [node for node in self.graph.node if readers[0].output[0] in node.input]
        output = f"{self.stack}.0.{self.architecture.layer.output}.weight"
        return [output in node.input for node in readers] == [True]


def _frequencies(theta: float, factor: float, head_size: int) -> Floats:
    """Return the angles by which the features of a head turn from one position to the next, as transformers does."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    frequencies: Floats = (1.0 / (theta**exponents) / factor).numpy()
    return frequencies


def _reader(nodes: Iterable[onnx.NodeProto], tensor: str) -> Any:
    node = next((node for node in nodes if tensor in node.input), None)
    if node is None:
        raise CheckpointError(f"The sparse runtime does not support this encoder: the graph does not use {tensor}.")
    return node
