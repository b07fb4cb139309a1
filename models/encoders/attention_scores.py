"""Pre-softmax attention scores of any BERT-family encoder, which transformers does not return.

They are computed from the outputs of the query and key projections: Q K^T / sqrt(d), [batch, heads, length, length].
MPNet's bias of relative positions is not part of these scores: no encoder linear computes it.
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
    """Collect the scores of the latest forward pass in the yielded list, one tensor per layer, with gradients.

    `heads` is the number of heads in the configuration, before any squeezing: it defines the size of a head. A squeezed
    layer yields scores for its remaining heads only.

    Raises:
        CheckpointError: a layer has no query and key projections with a known name.
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
            # Under autocast the product would be rounded to bf16, and the rounding would dominate its squared error.
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
        f"The attention of {type(layer).__name__} cannot be distilled: it has no linear called {' or '.join(names)}. "
        "Set distillation.attention to 0 in the recipe."
    )


def _split_heads(projected: torch.Tensor, head_size: int) -> torch.Tensor:
    """Reshape [batch, length, heads * d] to [batch, heads, length, d]."""
    batch, length, _ = projected.shape
    return projected.view(batch, length, -1, head_size).transpose(1, 2)
