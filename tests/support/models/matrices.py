"""Matrices of networks that are no encoders."""

from torch import nn


def matrices(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linears of a network's `layers` by name."""
    return {n: m for n, m in network.named_modules() if n.startswith("layers.") and isinstance(m, nn.Linear)}
