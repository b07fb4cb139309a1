"""Parameter names for the tensors of an exported graph, even if several parameters are equal."""

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


def equal_parameters(model: nn.Module) -> list[str]:
    """Return the names of parameters that equal another one, or its transpose: a matrix may be stored transposed."""
    equal: dict[bytes, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        array = parameter.detach().cpu().numpy()
        equal[min(_content(array), _content(array.T))].append(name)
    return [name for names in equal.values() if len(names) > 1 for name in names]


@contextlib.contextmanager
def distinct_parameters(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Replace equal parameters by distinct random values within the block; yield their real values by name.

    The exporter keeps only one of several equal tensors, computes only one of several linears with equal weights, and
    drops the names of weights that it stores transposed. With distinct values the graph has a tensor for each
    parameter, which its content identifies. `name_initializers` restores the real values.
    """
    parameters = dict(model.named_parameters())
    originals = {name: parameters[name].detach().clone() for name in equal_parameters(model)}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for name, values in originals.items():
                parameters[name].copy_(torch.randn(values.shape, generator=generator))
        yield originals
    finally:
        with torch.no_grad():
            for name, values in originals.items():
                parameters[name].copy_(values)


def name_initializers(
    graph: onnx.ModelProto,
    parameters: Mapping[str, torch.Tensor],
    originals: Mapping[str, torch.Tensor] | None = None,
    *,
    prefix: str = "",
) -> None:
    """Rename every initializer, in place, to the parameter that has its values, transposed or not.

    `parameters` are the parameters at export; the exporter puts `prefix` before their names. `originals` are values by
    name that replace those of some parameters, see `distinct_parameters`.
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
        parameter_name = own if own in parameters else by_content.get(_content(array))
        if parameter_name is None:
            continue
        if originals and parameter_name in originals:
            values = originals[parameter_name].cpu().numpy()
            transposed = not np.array_equal(array, parameters[parameter_name].detach().cpu().numpy())
            array = np.ascontiguousarray(values.T if transposed else values)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        if parameter_name not in names.values():
            names[tensor.name] = parameter_name
    for tensor in graph.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _content(array: npt.NDArray[Any]) -> bytes:
    """Return a digest of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
