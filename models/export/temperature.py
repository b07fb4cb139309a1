"""A temperature folded into an exported graph: the last linear is divided by it, so serving costs nothing more."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sparserve.models.errors import CheckpointError

TEMPERATURE = "temperature.json"
"""File beside a graph that records its temperature."""


def divide_logits(path: Path, temperature: float) -> None:
    """Divide the logits of a graph by a temperature, in place: weight and bias of its last linear become smaller.

    Raises:
        CheckpointError: the logits do not come from a linear.
    """
    graph = onnx.load(str(path))
    names = last_linear(graph.graph)
    for tensor in graph.graph.initializer:
        if tensor.name in names:
            divided = numpy_helper.to_array(tensor) / np.float32(temperature)
            tensor.CopyFrom(numpy_helper.from_array(divided, tensor.name))
    onnx.save(graph, str(path))


def last_linear(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names of the weight and, unless it is zero and left out, the bias that the logits come from.

    Raises:
        CheckpointError: the logits do not come from a linear.
    """
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    last = makers.get("logits")
    names: set[str] = set()
    if last is not None and last.op_type == "Add":
        names = stored.intersection(last.input)
        last = next((makers[name] for name in last.input if name in makers), None)
    if last is not None and last.op_type in ("Gemm", "MatMul") and last.input[1] in stored:
        names |= stored.intersection(last.input[1:])
        if all(uses.count(name) == 1 for name in names):
            return frozenset(names)
    raise CheckpointError(
        "the logits do not come from a linear, so no temperature can be folded into it: set temperature_scaling to "
        "false in the recipe"
    )
