"""The transformer layers of an encoder and their linears, found by structure and named by their roles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from sparserve.models.errors import CheckpointError

# query, key, value, attention output, FFN in, FFN out
_ROLES: Final = ("query", "key", "value", "attention_output", "intermediate", "output")
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "bert": (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense",
    ),
    "distilbert": (
        "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2",
    ),
    "mpnet": (
        "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "intermediate.dense",
        "output.dense",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class EncoderLayer:
    """One transformer layer: its module, its linears [out, in] by role, and the number of features per head."""

    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    intermediate: nn.Linear
    output: nn.Linear
    head_size: int

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.query.out_features // self.head_size

    @property
    def units(self) -> int:
        """Number of feed-forward units."""
        return self.intermediate.out_features


def encoder_layers(model: nn.Module) -> list[EncoderLayer]:
    """Return the transformer layers of a classifier, the lowest first.

    Raises:
        CheckpointError: the architecture of a layer is unknown, so its heads and units cannot be located.
    """
    config: Any = model.config
    _, layers = transformer_layers(model)
    return [_layer(module, config.hidden_size // config.num_attention_heads) for module in layers]


def encoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linears of every transformer layer by module name, in the model's order.

    BERT-family models have six per layer: query, key, value, attention output, FFN in, FFN out. Embeddings, pooler and
    classifier are not included.

    Raises:
        CheckpointError: the model has no stack of layers with linears.
    """
    name, layers = transformer_layers(model)
    return {
        f"{name}.{index}.{inner}": module
        for index, layer in enumerate(layers)
        for inner, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }


def transformer_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the module name and the stack of transformer layers: the module list with the most parameters.

    Raises:
        CheckpointError: there is no such list.
    """
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(isinstance(m, nn.Linear) for m in module.modules())
    ]
    if not stacks:
        raise CheckpointError(
            f"{type(model).__name__} has no stack of transformer layers with linears, so it cannot be pruned. "
            "Use a BERT-family encoder."
        )
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack[1].parameters()))


def _layer(module: nn.Module, head_size: int) -> EncoderLayer:
    modules = dict(module.named_modules())
    for names in _NAMES.values():
        linears = [modules.get(name) for name in names]
        if all(isinstance(linear, nn.Linear) for linear in linears):
            return EncoderLayer(module, **dict(zip(_ROLES, linears, strict=True)), head_size=head_size)  # type: ignore[arg-type]
    raise CheckpointError(
        f"Heads and feed-forward units of {type(module).__name__} are unknown; they are known for {', '.join(_NAMES)}. "
        "Remove `squeeze` from the recipe and prune single weights instead."
    )
