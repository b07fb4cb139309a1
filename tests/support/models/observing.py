"""A pruning method that has seen some gradients of one matrix."""

from torch import nn

from sparserve.models.recipes.schema import Pruning


def observed(method, weight, *gradients, pruning=None):
    """The method's matrix after these gradients [out, in], masks changing after the last."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    linear.weight.data = weight.clone()
    method.prepare({"a": linear}, pruning or Pruning())
    for left, gradient in reversed(list(enumerate(reversed(gradients)))):
        linear.weight.grad = gradient.clone()
        method.observe(0.0, left)
    return linear
