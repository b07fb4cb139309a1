"""Rotary positions (RoPE): pairs of features of queries and keys turn by angles that grow with their positions.

Su et al. 2021, arXiv 2104.09864.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

MAX_POSITIONS: Final = 1 << 20  # that the sparse runtime computes; transformers allocates as many


def rope_fault(rope: Mapping[str, Any], of: str = "") -> str | None:
    """Return the reason why these parameters, those `of` some layers, are not supported; None if they are."""
    kind, theta = rope.get("rope_type", "default"), rope.get("rope_theta")
    if kind != "default":
        return f"rope_type{of} is {kind!r}, but only 'default' is supported: take a checkpoint without RoPE scaling"
    if not isinstance(theta, int | float) or not theta > 0:
        return f"rope_theta{of} is {theta!r}, but it must be a number above 0"
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
