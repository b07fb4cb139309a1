"""Graphs of networks that were exported before in this process, to be filled with the parameters of others like them.

Tracing takes ten seconds or more however small the network is, and a run exports several networks of one configuration:
the dense one, its students, the trials of a search.
"""

import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from sparserve.models.export.initializers import equal_parameters

# Fields of a configuration that have no influence on the graph.
NAMES: Final = ("_name_or_path", "id2label", "label2id", "problem_type", "dtype")


@dataclass(frozen=True)
class Template:
    """A graph without the values of its parameters, and the names of those that it stores transposed."""

    graph: bytes
    transposed: frozenset[str]


class Templates:
    """Templates by everything that the graph depends on except the values of the parameters.

    Args:
        stored: holds them; by default this process alone.
    """

    def __init__(self, stored: MutableMapping[str, Template] | None = None) -> None:
        self._templates: MutableMapping[str, Template] = {} if stored is None else stored

    def keep(self, model: nn.Module, options: Any, graph: onnx.ModelProto) -> None:
        """Keep the graph that was exported from a model with `options`. Its initializers have the parameters' names."""
        template, transposed = onnx.ModelProto(), set()
        template.CopyFrom(graph)
        parameters = model.state_dict()
        for tensor in template.graph.initializer:
            if tensor.name in parameters:
                values = parameters[tensor.name].cpu().numpy()
                if not np.array_equal(numpy_helper.to_array(tensor), values):
                    transposed.add(tensor.name)
                tensor.ClearField("raw_data")
        self._templates[_key(model, options)] = Template(template.SerializeToString(), frozenset(transposed))

    def fill(self, model: nn.Module, options: Any) -> onnx.ModelProto | None:
        """Return the graph of a model like one that was exported with the same options; None if there was none."""
        template = self._templates.get(_key(model, options))
        if template is None:
            return None
        graph = onnx.ModelProto.FromString(template.graph)
        parameters, equal = model.state_dict(), set(equal_parameters(model))
        for tensor in graph.graph.initializer:
            if tensor.name in parameters:
                values = parameters[tensor.name].cpu().numpy()
                stored = numpy_helper.from_array(
                    np.ascontiguousarray(values.T if tensor.name in template.transposed else values), tensor.name
                )
                # To the byte what tracing gives: it has empty fields in tensors that did not have to be replaced.
                if tensor.name not in equal:
                    stored.doc_string = ""
                tensor.CopyFrom(stored)
        return graph


def _key(model: nn.Module, options: Any) -> str:
    config: Any = model.config
    fields = {name: value for name, value in config.to_dict().items() if name not in NAMES}
    fields["attention"] = config._attn_implementation
    shapes = {name: [str(value.dtype), *value.shape] for name, value in model.state_dict().items()}
    return json.dumps([type(model).__qualname__, fields, shapes, options], sort_keys=True, default=str)
