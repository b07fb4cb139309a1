"""Rotary positions (RoPE): pairs of features of queries and keys turn by angles that grow with their positions.

Su et al. 2021, arXiv 2104.09864.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

MAX_POSITIONS: Final = 1 << 20  # that the sparse runtime computes; transformers allocates as many
MAX_THETA: Final = 1e30  # whose angles are still float32 numbers above 0


def rope_fault(rope: Mapping[str, Any], of: str = "") -> str | None:
    """Return the reason why these parameters, those `of` some layers, are not supported; None if they are."""
    # `type` is the older name of `rope_type`; transformers reads one of the two.
    for kind in (rope.get("rope_type", "default"), rope.get("type", "default")):
        if kind != "default":
            return f"rope_type{of} is {kind!r}, but only 'default' is supported: take a checkpoint without RoPE scaling"
    if (part := rope.get("partial_rotary_factor")) not in (None, 1):
        return (
            f"partial_rotary_factor{of} is {part!r}, but all features of a head are rotated: take a checkpoint that "
            "was trained so"
        )
    theta = rope.get("rope_theta")
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < MAX_THETA:
        shown = repr(theta) if len(repr(theta)) < 40 else f"a number of {len(repr(theta))} characters"
        return f"rope_theta{of} is {shown}, but it must be a number above 0 and below {MAX_THETA:g}"
    return None


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
