"""Rotary positions (RoPE): pairs of features of queries and keys turn by angles that grow with their positions.

Su et al. 2021, arXiv 2104.09864.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from sparserve.models.encoders.architectures.architecture import LayerAttention

MAX_POSITIONS: Final = 1 << 20  # that the sparse runtime computes; transformers allocates as many
MAX_THETA: Final = 1e30  # whose angles are still float32 numbers above 0


def rope_fault(rope: Mapping[str, Any], of: str = "") -> str | None:
    """Return the reason why these parameters, those `of` some layers, are not supported; None if they are."""
    kind = rope.get("rope_type", "default")
    older = rope.get("type", kind)  # transformers reads this name if the newer one is absent
    for one in (kind, older):
        if one not in ("default", "linear"):
            return (
                f"rope_type{of} is {one!r}, but only 'default' and 'linear' are supported: take a checkpoint without "
                "RoPE scaling"
            )
    if older != kind:
        return f"type{of} is {older!r}, but transformers computes {kind!r}: give the kind as rope_type"
    if (part := rope.get("partial_rotary_factor")) not in (None, 1):
        return (
            f"partial_rotary_factor{of} is {part!r}, but all features of a head are rotated: take a checkpoint that "
            "was trained so"
        )
    for name, value in (("rope_theta", rope.get("rope_theta")), ("factor", rope.get("factor", 1.0))):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_THETA:
            shown = repr(value) if len(repr(value)) < 40 else f"a number of {len(repr(value))} characters"
            return f"{name}{of} is {shown}, but it must be a number above 0 and below {MAX_THETA:g}"
    return None


def rotary_attention(rope: Mapping[str, Any], band: int | None = None) -> LayerAttention:
    """Return the attention of a layer with these parameters, which have no fault."""
    factor = rope["factor"] if rope["rope_type"] == "linear" else 1.0
    return LayerAttention(band, float(rope["rope_theta"]), float(factor))


def head_fault(config: Any) -> str | None:
    """Return the reason why heads of this size, or so many positions, are not supported; None if they are."""
    size = config.hidden_size // config.num_attention_heads
    if getattr(config, "head_dim", None) not in (None, size):
        return f"head_dim is {config.head_dim!r}, but hidden_size and num_attention_heads give {size}: take equal sizes"
    if size % 2:
        return "the heads have an odd number of features, which RoPE cannot rotate: take other sizes"
    if config.max_position_embeddings > MAX_POSITIONS:
        return f"max_position_embeddings is {config.max_position_embeddings}, but it must be at most {MAX_POSITIONS}"
    return None


def rotated(query: Tensor, key: Tensor, keywords: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return queries and keys [batch, heads, length, d] turned by the cosines and sines of an attention's call."""
    cos, sin = (part.float().unsqueeze(1) for part in keywords["position_embeddings"])
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(features: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of features (i, i + d / 2) by the angles of their positions."""
    first, second = features.chunk(2, dim=-1)
    return features * cos + torch.cat((-second, first), dim=-1) * sin
