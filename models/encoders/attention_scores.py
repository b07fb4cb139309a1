"""Pre-softmax attention scores of any BERT-family encoder, which transformers does not return.

They are computed from what the query and key projections put out: Q K^T / sqrt(d), [batch, heads, length, length].
MPNet adds its bias of relative positions to them afterwards; it is not in these scores: no encoder linear makes it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparserve.models.encoders.layers import transformer_layers
from sparserve.models.errors import CheckpointError

QUERY_NAMES = ("query", "q_lin", "q_proj", "q")
KEY_NAMES = ("key", "k_lin", "k_proj", "k")


@contextmanager
def attention_scores(model: nn.Module, heads: int) -> Iterator[list[torch.Tensor]]:
    """Within the block, the list holds the scores of the latest forward pass, one tensor a layer, with gradients.

    `heads` is that of the configuration, of the network before any squeezing: it says how wide a head is. A layer that
    has fewer heads gives scores of those.

    Raises:
        CheckpointError: a layer has no query and key projections by any known name.
    """
    _, layers = transformer_layers(model)
    config: Any = model.config
    head_size = config.hidden_size // heads
    queries: dict[int, torch.Tensor] = {}
    scores: list[torch.Tensor] = []

    def keep_query(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if layer == 0:
                scores.clear()
            queries[layer] = output

        return hook

    def keep_scores(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            # Under autocast the product would be rounded to bf16, and its squared error be mostly that.
            query, key = (_split_heads(part.float(), head_size) for part in (queries.pop(layer), output))
            with torch.autocast(output.device.type, enabled=False):
                scores.append(query @ key.transpose(-1, -2) / math.sqrt(head_size))

        return hook

    handles = []
    for index, layer in enumerate(layers):
        handles.append(_projection(layer, QUERY_NAMES).register_forward_hook(keep_query(index)))
        handles.append(_projection(layer, KEY_NAMES).register_forward_hook(keep_scores(index)))
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()


def _projection(layer: nn.Module, names: tuple[str, ...]) -> nn.Linear:
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in names:
            return module
    raise CheckpointError(
        f"a layer of type {type(layer).__name__} has no linear called {' or '.join(names)}: its attention cannot be "
        "distilled; set distillation.attention to 0 in the recipe"
    )


def _split_heads(projected: torch.Tensor, head_size: int) -> torch.Tensor:
    """[batch, length, heads * d] -> [batch, heads, length, d]."""
    batch, length, _ = projected.shape
    return projected.view(batch, length, -1, head_size).transpose(1, 2)
