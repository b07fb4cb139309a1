"""Pre-softmax attention scores of any encoder, which transformers does not return.

They are computed from the outputs of the query and key projections, as the architecture does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparserve.models.encoders.architectures.architecture import split_heads
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.layers import EncoderLayer, encoder_layers


@contextmanager
def attention_scores(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the scores of the latest forward pass in the yielded list, one tensor per layer, with gradients.

    A tensor is [batch, heads, length, length]. A squeezed layer yields scores for its remaining heads only.

    Raises:
        CheckpointError: the architecture is not in the registry.
    """
    architecture = architecture_of(model.config)
    projected: dict[nn.Module, torch.Tensor] = {}
    scores: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        # The first call projects the texts. Some architectures project a table of positions by the same linear.
        projected.setdefault(module, output)

    def begin(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            projected.clear()
            if layer == 0:
                scores.clear()

        return hook

    def keep_scores(layer: EncoderLayer) -> Any:
        def hook(module: nn.Module, inputs: Any, keywords: dict[str, Any], output: Any) -> None:
            # Under autocast the product would be rounded to bf16, and the rounding would dominate its squared error.
            query, key = (
                split_heads(rows.of(projected[rows.linear]).float(), layer.head_size)
                for rows in (layer.query, layer.key)
            )
            with torch.autocast(query.device.type, enabled=False):
                scores.append(architecture.scores(layer.attention, query, key, keywords))

        return hook

    handles = []
    for index, layer in enumerate(encoder_layers(model)):
        handles.append(layer.attention.register_forward_pre_hook(begin(index)))
        handles += [
            linear.register_forward_hook(keep) for linear in dict.fromkeys((layer.query.linear, layer.key.linear))
        ]
        handles.append(layer.attention.register_forward_hook(keep_scores(layer), with_kwargs=True))
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()
