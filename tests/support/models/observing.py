"""A pruning method that has observed gradients of one matrix."""

from typing import Any

from torch import nn

from sparserve.models.recipes.schema import Pruning


def observed(method: Any, weight: Any, *gradients: Any, pruning: Any = None) -> Any:
    """Pass gradients [out, in] to the method and return its matrix; masks change after the last."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    linear.weight.data = weight.clone()
    method.prepare({"a": linear}, pruning or Pruning())
    for left, gradient in reversed(list(enumerate(reversed(gradients)))):
        linear.weight.grad = gradient.clone()
        method.observe(0.0, left)
    return linear
