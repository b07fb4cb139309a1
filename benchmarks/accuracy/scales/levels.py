"""Levels of the methods that prune single weights, and ablations that several scales have."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.accuracy.scales.grid import Method

# Ablation of the output gradients in layer-wise Optimal Brain Surgeon: uniform allocation instead of a global ranking,
# which needs them.
LAYER_BY_LAYER: Mapping[str, Any] = {
    "pruning.sparsity": 0.95,
    "pruning.allocation": "uniform",
    "pruning.begin": 0.02,
    "pruning.options": {},
}
# Ablation of layer-wise Optimal Brain Surgeon: the same recipe with the score of SparseBERT.
BY_MAGNITUDE: Mapping[str, Any] = {
    **LAYER_BY_LAYER,
    "pruning.method": "magnitude",
    "pruning.begin": 0.0,
    "pruning.updates": 30,
}


def sparsity_levels(*levels: float) -> dict[str, dict[str, Any]]:
    """Return levels by name: fractions of zeros in the encoder's linears."""
    return {f"{100 * level:g} %": {"pruning.sparsity": level} for level in levels}


def weight_pruning(name: str, *levels: float, changes: Mapping[str, Any] = MappingProxyType({})) -> Method:
    """Return the method of a recipe that prunes single weights, with the same changes at every level."""
    return Method(name, name, "weights", {level: {**own, **changes} for level, own in sparsity_levels(*levels).items()})
