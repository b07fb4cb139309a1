"""What every method that removes whole units is: a choice of what stays, made on calibration rows and carried out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Squeeze

Batch = Mapping[str, torch.Tensor]


class UnitMethod(ABC):
    """A choice of attention heads, feed-forward units and hidden dimensions; the network becomes smaller at once.

    Its constructor's keyword arguments are the recipe's `squeeze.options`.
    """

    revision: int = 1  # raised when the same recipe gives another network than before

    @abstractmethod
    def check(self, model: nn.Module, squeeze: Squeeze, lengths: Sequence[int] | None = None) -> None:
        """See what can be seen before anything is run; `model` may be on the device `meta`, without weights.

        `lengths` are the tokens of each calibration row, None while they have not been read.

        Raises:
            RecipeError: the recipe asks for what the method cannot do, would leave a layer without heads or units, or
                has too few calibration rows.
            CheckpointError: the heads and units of the architecture are not known.
        """

    @abstractmethod
    def apply(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose units, squeeze `model` in place, and return what was kept; the model ends in eval mode.

        A batch holds the model's inputs [batch, length] and `labels` on the model's device; also `row` [batch], which
        the model does not take. Indices of the structure are of the network as it was given.

        Raises:
            RecipeError: the recipe asks for what the method cannot do, or would leave a layer without heads or units.
            CheckpointError: the heads and units of the architecture are not known.
        """


def model_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """What the model takes of a batch: everything but `row`."""
    return {name: value for name, value in batch.items() if name != "row"}


def kept_count(fraction: float, total: int, what: str, *, layers: int = 1) -> int:
    """How many of `total` stay, the nearest whole number to `fraction` of them; `layers` share them.

    Raises:
        RecipeError: a layer would be left without any.
    """
    count = round(fraction * total)
    if count < layers:
        raise RecipeError(
            f"a fraction of {fraction:g} would squeeze to zero {what}: of {total} at least {layers} must stay, "
            f"so the smallest fraction is {layers / total:.4g}; raise it in the recipe's squeeze section"
        )
    return count
