"""Post-training pruning: choose heads and units by Fisher information and refit the rest, without training.

Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers" (arXiv 2204.09656).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sparserve.models.encoders import squeezing
from sparserve.models.encoders.layers import EncoderLayer, encoder_layers
from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import RecipeError
from sparserve.models.pruning.units.budget import Importance, affordable, most_important, operations, search
from sparserve.models.pruning.units.mask_gradients import mask_gradients, rearrange
from sparserve.models.pruning.units.method import Batch, UnitMethod, kept_count
from sparserve.models.pruning.units.reconstruction import DAMPING, REVISION, squeeze_and_refit
from sparserve.models.recipes.schema import Squeeze


class PostTraining(UnitMethod):
    """Search under a budget by mask gradients, then optional mask rearrangement, then a least-squares refit.

    `squeeze.flops` is the budget, for which heads and units compete over all layers. Without it the fractions `heads`
    and `units` hold over all layers together, so that one layer may keep more than another.
    """

    def __init__(self, rearrange: bool = False, tune: bool = True, damping: float = DAMPING) -> None:
        """Store the options.

        Args:
            rearrange: swap redundant units of a layer by the Fisher information between them. Useful without `tune`;
                with it, the refit recovers the same loss and was slightly better alone.
            tune: refit the kept weights to the layers of the dense network by least squares (`reconstruction`).
            damping: ridge penalty of the refit, relative to the mean variance of its inputs.
        """
        if damping <= 0:
            raise ValueError(f"damping is {damping:g}; it must be above 0")
        self.rearrange = rearrange
        self.tune = tune
        self.revision = REVISION if tune else 1
        self.damping = damping

    def check(self, model: nn.Module, squeeze: Squeeze, lengths: Sequence[int] | None = None) -> None:
        """Check that all hidden dimensions stay and that every layer can keep a head and a unit."""
        if squeeze.hidden < 1:
            raise RecipeError(
                "squeeze.hidden: post-training cannot remove hidden dimensions. Set it to 1, or squeeze.method to "
                "mutual-information."
            )
        layers = encoder_layers(model)
        if squeeze.flops is None:
            _counts(layers, squeeze)
        elif lengths is not None:
            heads, units = sum(layer.heads for layer in layers), sum(layer.units for layer in layers)
            affordable(len(layers), heads, units, operations(layers[0], lengths), squeeze.flops)

    def apply(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose heads and units, squeeze `model` in place, refit it and return the kept units."""
        model.eval()
        structure = self.choose(model, batches, squeeze)
        if self.tune:
            squeeze_and_refit(model, structure, batches, damping=self.damping)
        else:
            squeezing.squeeze(model, structure)
        return structure

    def choose(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose heads and units without changing the network.

        Raises:
            RecipeError: the recipe removes hidden dimensions, or a layer would keep no head or no unit.
        """
        self.check(model, squeeze)
        layers = encoder_layers(model)
        gradients = mask_gradients(model, batches)
        heads = [_importance(layer.heads) for layer in gradients]
        units = [_importance(layer.units) for layer in gradients]
        if squeeze.flops is not None:
            lengths = torch.cat([batch["attention_mask"].sum(-1) for batch in batches]).tolist()
            kept = search(heads, units, operations(layers[0], lengths), squeeze.flops)
        else:
            kept = _counts(layers, squeeze)
        return Structure(
            heads=self._indices(heads, kept[0], [layer.heads for layer in gradients]),
            units=self._indices(units, kept[1], [layer.units for layer in gradients]),
        )

    def _indices(
        self, importance: Importance, count: int, gradients: Sequence[torch.Tensor]
    ) -> tuple[tuple[int, ...], ...]:
        masks = most_important(importance, count)
        if self.rearrange:
            masks = [rearrange(of_layer, mask) for of_layer, mask in zip(gradients, masks, strict=True)]
        return tuple(tuple(np.flatnonzero(mask).tolist()) for mask in masks)


def _counts(layers: Sequence[EncoderLayer], squeeze: Squeeze) -> tuple[int, int]:
    """Return the numbers of heads and units to keep, all layers together."""
    return (
        kept_count(squeeze.heads, sum(layer.heads for layer in layers), "heads", layers=len(layers)),
        kept_count(squeeze.units, sum(layer.units for layer in layers), "units", layers=len(layers)),
    )


def _importance(gradients: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the diagonal of the Fisher information (section 4.1): a mask's mean squared gradient over rows."""
    return gradients.double().square().mean(0).cpu().numpy()
