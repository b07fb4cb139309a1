"""Base class of the methods that remove whole units, chosen on calibration rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Squeeze

Batch = Mapping[str, torch.Tensor]


class UnitMethod(ABC):
    """Choice of attention heads, feed-forward units and hidden dimensions to keep; the network shrinks in one step.

    The keyword arguments of the constructor are the `squeeze.options` of the recipe.
    """

    revision: int = 1  # raised when the same recipe gives another network than before

    @abstractmethod
    def check(self, model: nn.Module, squeeze: Squeeze, lengths: Sequence[int] | None = None) -> None:
        """Check that the method can carry out this recipe. The model may be on the device `meta`, without weights.

        `lengths` are the token counts of the calibration rows, or None before they are tokenised.

        Raises:
            RecipeError: the recipe asks for something that the method cannot do, would leave a layer without heads or
                units, or has too few calibration rows.
            CheckpointError: the heads and units of the architecture are unknown.
        """

    @abstractmethod
    def apply(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose units, squeeze `model` in place, leave it in eval mode and return the kept units.

        A batch holds the model's inputs [batch, length], `labels`, and `row` [batch], which the model does not take;
        all on the model's device. The indices of the structure refer to the network before the squeeze.

        Raises:
            RecipeError: the recipe asks for something that the method cannot do, or would leave a layer without heads
                or units.
            CheckpointError: the heads and units of the architecture are unknown.
        """


def model_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """Return the model's inputs: the batch without `row`."""
    return {name: value for name, value in batch.items() if name != "row"}


def kept_count(fraction: float, total: int, units: str, *, layers: int = 1) -> int:
    """Return the number of kept units: `fraction` of `total`, rounded. `units` is their plural, `layers` share them.

    Raises:
        RecipeError: a layer would keep none.
    """
    count = round(fraction * total)
    if count < layers:
        raise RecipeError(
            f"squeezing to a fraction of {fraction:g} leaves zero {units} of {total}; at least {layers} must stay. "
            f"Raise the fraction in the squeeze section of the recipe; the smallest fraction is {layers / total:.4g}."
        )
    return count
