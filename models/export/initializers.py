"""Which of a network's parameters each tensor of its exported graph holds, also where several parameters are equal."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn


@contextlib.contextmanager
def told_apart(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Within the block no two parameters are equal; what those that were have outside of it is yielded, by name.

    Of equal tensors the exporter keeps one, of linears with equal weights it computes one, and weights that it stores
    transposed lose their names: a graph of random values has a tensor for each parameter, known by its content.
    `name_initializers` puts the real values in their place.
    """
    equal: dict[bytes, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        array = parameter.detach().cpu().numpy()
        # A matrix may be stored transposed: it must not be another's transpose, either.
        equal[min(_content(array), _content(array.T))].append(name)
    parameters = dict(model.named_parameters())
    held = {name: parameters[name].detach().clone() for names in equal.values() if len(names) > 1 for name in names}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for name, values in held.items():
                parameters[name].copy_(torch.randn(values.shape, generator=generator))
        yield held
    finally:
        with torch.no_grad():
            for name, values in held.items():
                parameters[name].copy_(values)


def name_initializers(
    graph: onnx.ModelProto,
    parameters: Mapping[str, torch.Tensor],
    held: Mapping[str, torch.Tensor] | None = None,
    *,
    prefix: str = "",
) -> None:
    """Give every initializer the name of the parameter whose values it has, as they are or transposed, in place.

    `parameters` are those that the graph was exported with, `prefix` what the exporter calls them before their names,
    and `held` the values, by name, that take the place of some of them.
    """
    by_content: dict[bytes, str] = {}
    for name, parameter in parameters.items():
        array = parameter.detach().cpu().numpy()
        by_content.setdefault(_content(array), name)
        if array.ndim == 2:
            by_content.setdefault(_content(array.T), name)
    names: dict[str, str] = {}
    for tensor in graph.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
            continue
        array = numpy_helper.to_array(tensor)
        own = tensor.name.removeprefix(prefix)
        found = own if own in parameters else by_content.get(_content(array))
        if found is None:
            continue
        if held and found in held:
            values = held[found].cpu().numpy()
            as_it_is = np.array_equal(array, parameters[found].detach().cpu().numpy())
            array = np.ascontiguousarray(values if as_it_is else values.T)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        if found not in names.values():
            names[tensor.name] = found
    for tensor in graph.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _content(array: npt.NDArray[Any]) -> bytes:
    """A digest of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
