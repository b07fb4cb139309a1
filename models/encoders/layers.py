"""The transformer layers of an encoder and their linears by role, located by the network's architecture."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparserve.models.encoders.architectures.architecture import Architecture, Rows
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.errors import CheckpointError


@dataclass(frozen=True)
class Projection:
    """Rows of a linear [out, in] that play one role: all, or one of several equal groups of a fused linear."""

    linear: nn.Linear
    group: int = 0
    groups: int = 1

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.linear.in_features

    @property
    def out_features(self) -> int:
        """Number of these outputs."""
        return self.linear.out_features // self.groups

    @property
    def weight(self) -> Tensor:
        """Return the rows [out, in]; of a fused linear a view, so that changes in place reach the linear."""
        return self._rows(self.linear.weight)

    @property
    def bias(self) -> Tensor | None:
        """Return the biases [out], as `weight` does; None if the linear has none."""
        return None if self.linear.bias is None else self._rows(self.linear.bias)

    def of(self, outputs: Tensor) -> Tensor:
        """Return these features of the linear's outputs [..., groups * out]."""
        return outputs if self.groups == 1 else outputs.chunk(self.groups, dim=-1)[self.group]

    def _rows(self, parameter: Tensor) -> Tensor:
        if self.groups == 1:
            return parameter
        return parameter.narrow(0, self.group * self.out_features, self.out_features)


@dataclass(frozen=True)
class EncoderLayer:
    """One transformer layer: its module, its linears by role, its norms, and the number of features per head.

    `norms` are in the order of execution; see `LayerNames` for the roles.
    """

    module: nn.Module
    attention: nn.Module
    query: Projection
    key: Projection
    value: Projection
    attention_output: nn.Linear
    intermediate: Projection
    gate: Projection | None
    output: nn.Linear
    norms: tuple[nn.Module, nn.Module]
    position_query: nn.Linear | None
    position_key: nn.Linear | None
    head_size: int
    norm_first: bool
    rotary: bool

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.query.out_features // self.head_size

    @property
    def units(self) -> int:
        """Number of feed-forward units."""
        return self.intermediate.out_features

    @property
    def unit_rows(self) -> tuple[Projection, ...]:
        """Projections with one output per feed-forward unit."""
        return (self.intermediate,) if self.gate is None else (self.intermediate, self.gate)


def encoder_layers(model: nn.Module) -> list[EncoderLayer]:
    """Return the transformer layers of a classifier, the lowest first.

    Raises:
        CheckpointError: the architecture is not in the registry, or the network has other modules than it says.
    """
    config: Any = model.config
    architecture = architecture_of(config)
    _, layers = transformer_layers(model)
    return [_layer(module, architecture, config.hidden_size // config.num_attention_heads) for module in layers]


def encoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linears of every transformer layer by module name, in the model's order.

    Those of a BERT layer are query, key, value, attention output, FFN in and FFN out; fused linears count once.
    Embeddings, pooler, classifier and projections of positions are not included.

    Raises:
        CheckpointError: the architecture is not in the registry, or the network has other modules than it says.
    """
    name, layers = transformer_layers(model)
    names = architecture_of(model.config).layer.linears
    return {
        f"{name}.{index}.{inner}": module
        for index, layer in enumerate(layers)
        for inner, module in layer.named_modules()
        if isinstance(module, nn.Linear) and inner in names
    }


def transformer_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the module name and the stack of transformer layers.

    Raises:
        CheckpointError: the architecture is not in the registry, or the network has no such stack.
    """
    stack = architecture_of(model.config).stack
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and (name == stack or name.endswith(f".{stack}")):
            return name, module
    raise CheckpointError(f"{type(model).__name__} has no layers called {stack}, so it cannot be compressed.")


def _layer(module: nn.Module, architecture: Architecture, head_size: int) -> EncoderLayer:
    names, modules = architecture.layer, dict(module.named_modules())

    def linear(name: str) -> nn.Linear:
        found = modules.get(name)
        if not isinstance(found, nn.Linear):
            raise CheckpointError(f"{type(module).__name__} has no linear {name}, as {architecture.model_type} has.")
        return found

    def projection(rows: Rows) -> Projection:
        return Projection(linear(rows.module), rows.group, rows.groups)

    position_query, position_key = (
        linear(name) if name is not None and name in modules else None
        for name in (names.position_query, names.position_key)
    )
    return EncoderLayer(
        module,
        modules[names.query.module.rpartition(".")[0]],
        projection(names.query),
        projection(names.key),
        projection(names.value),
        linear(names.attention_output),
        projection(names.intermediate),
        projection(names.gate) if names.gate is not None else None,
        linear(names.output),
        (modules[names.norms[0]], modules[names.norms[1]]),
        position_query,
        position_key,
        head_size,
        architecture.norm_first,
        architecture.positions == "rotary",
    )
