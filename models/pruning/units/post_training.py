"""Post-training pruning: heads and units chosen by Fisher information, and the rest refitted, without training.

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
    """Search under a budget by the gradients of the gold labels' loss, mask rearrangement if asked for, least squares.

    `squeeze.flops` is the budget: heads and units compete for it over all layers. Without it the fractions `heads`
    and `units` are kept over all layers together, so that a layer may keep more than another.
    """

    def __init__(self, rearrange: bool = False, tune: bool = True, damping: float = DAMPING) -> None:
        """Keep the options.

        Args:
            rearrange: swap units of a layer that do the same as others, by the Fisher information between them. Worth
                having without `tune`; a refit makes up for the same loss, and was seen to do so a little better alone.
            tune: refit what stays to the dense network's layers by least squares (`reconstruction`).
            damping: how strongly the refit holds on to the weights, relative to the mean variance of its inputs.
        """
        if damping <= 0:
            raise ValueError(f"damping must be above 0, not {damping:g}")
        self.rearrange = rearrange
        self.tune = tune
        self.revision = REVISION if tune else 1
        self.damping = damping

    def check(self, model: nn.Module, squeeze: Squeeze, lengths: Sequence[int] | None = None) -> None:
        """See that no hidden dimensions are to go, and that a head and a unit can stay in every layer."""
        if squeeze.hidden < 1:
            raise RecipeError(
                "squeeze.hidden: post-training removes no hidden dimensions: set it to 1, or squeeze.method to "
                "mutual-information"
            )
        layers = encoder_layers(model)
        if squeeze.flops is None:
            _counts(layers, squeeze)
        elif lengths is not None:
            heads, units = sum(layer.heads for layer in layers), sum(layer.units for layer in layers)
            affordable(len(layers), heads, units, operations(layers[0], lengths), squeeze.flops)

    def apply(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose heads and units, squeeze `model` in place, refit it, and return what was kept."""
        model.eval()
        structure = self.choose(model, batches, squeeze)
        if self.tune:
            squeeze_and_refit(model, structure, batches, damping=self.damping)
        else:
            squeezing.squeeze(model, structure)
        return structure

    def choose(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose heads and units; the network stays as it is.

        Raises:
            RecipeError: hidden dimensions are to go, or the budget cannot pay for a head and a unit in every layer.
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
            masks = [rearrange(found, mask) for found, mask in zip(gradients, masks, strict=True)]
        return tuple(tuple(np.flatnonzero(mask).tolist()) for mask in masks)


def _counts(layers: Sequence[EncoderLayer], squeeze: Squeeze) -> tuple[int, int]:
    """Heads and units that stay, of all layers together."""
    return (
        kept_count(squeeze.heads, sum(layer.heads for layer in layers), "heads", layers=len(layers)),
        kept_count(squeeze.units, sum(layer.units for layer in layers), "units", layers=len(layers)),
    )


def _importance(gradients: torch.Tensor) -> npt.NDArray[np.float64]:
    """Diagonal of the Fisher information (section 4.1): the mean over rows of a mask's squared gradient."""
    return gradients.double().square().mean(0).cpu().numpy()
