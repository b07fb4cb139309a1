"""Choice of attention heads and feed-forward units under a budget of operations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparserve.models.encoders.layers import EncoderLayer
from sparserve.models.errors import RecipeError

Importance = Sequence[npt.NDArray[np.float64]]  # of each layer's heads or units, the lowest layer first
Masks = list[npt.NDArray[np.bool_]]  # True: stays


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of one head and of one feed-forward unit over the real tokens of the calibration rows."""

    head: int
    unit: int

    def of(self, heads: int, units: int) -> int:
        """Return the cost of this many heads and units, all layers together."""
        return heads * self.head + units * self.unit


def operations(layer: EncoderLayer, lengths: Sequence[int]) -> Operations:
    """Return the cost of one head and of one unit of a layer, for rows of these token counts.

    A row of n tokens costs 4 n d h + 2 n^2 h per head, and 2 n d per unit or 3 n d per gated unit, where d is the
    hidden size and h the features of a head. Biases, softmax and LayerNorm are not counted. Attention is counted as if
    every token saw all others at one product per score.
    """
    tokens, pairs = sum(lengths), sum(length**2 for length in lengths)
    hidden, features = layer.query.in_features, layer.head_size
    return Operations(
        head=4 * tokens * hidden * features + 2 * pairs * features, unit=(1 + len(layer.unit_rows)) * tokens * hidden
    )


def affordable(layers: int, heads: int, units: int, cost: Operations, fraction: float) -> int:
    """Return the budget: this fraction of the operations of all heads and units, all layers together.

    Raises:
        RecipeError: the budget is below the cost of one head and one unit in every layer.
    """
    whole, least = cost.of(heads, units), cost.of(layers, layers)
    if fraction * whole < least:
        raise RecipeError(
            f"squeeze.flops is {fraction:g}, too small for one head and one unit in each of {layers} layers. "
            f"The smallest fraction is {math.ceil(1e4 * least / whole) / 1e4:g}."
        )
    return max(int(fraction * whole), least)


def search(heads: Importance, units: Importance, cost: Operations, fraction: float) -> tuple[int, int]:
    """Return the numbers of heads and units to keep, all layers together, at this fraction of the operations.

    For each number of heads the most important units fill the rest of the budget. The pair with the largest sum of
    importances wins (Kwon et al. 2022, arXiv 2204.09656, algorithm 1).

    Raises:
        RecipeError: the budget is below the cost of one head and one unit in every layer.
    """
    layers, all_heads, all_units = len(heads), sum(map(len, heads)), sum(map(len, units))
    budget = affordable(layers, all_heads, all_units, cost, fraction)
    # Entry n is the summed importance of the first n.
    of_heads = np.concatenate([[0.0], np.concatenate(heads)[_order(heads)].cumsum()])
    of_units = np.concatenate([[0.0], np.concatenate(units)[_order(units)].cumsum()])
    numbers = []
    for n in range(layers, all_heads + 1):
        m = min(int((budget - cost.of(n, 0)) // cost.unit), all_units)
        if m >= layers:
            numbers.append((n, m))
    return max(numbers, key=lambda pair: of_heads[pair[0]] + of_units[pair[1]])


def most_important(importance: Importance, count: int) -> Masks:
    """Return masks that keep the `count` most important of all layers together, always including each layer's best."""
    mask = np.zeros(sum(map(len, importance)), dtype=bool)
    mask[_order(importance)[:count]] = True
    return np.split(mask, np.cumsum([len(layer) for layer in importance])[:-1])


def _order(importance: Importance) -> npt.NDArray[np.intp]:
    """Return indices into the concatenated layers: the best of every layer first, then by importance."""
    layer_best = []
    for layer in importance:
        first = np.zeros(len(layer), dtype=bool)
        first[layer.argmax()] = True
        layer_best.append(first)
    return np.lexsort((-np.concatenate(importance), ~np.concatenate(layer_best)))
