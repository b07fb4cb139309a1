"""Gradients of each calibration row's loss with respect to masks on heads and feed-forward units."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sparserve.models.encoders.layers import EncoderLayer, encoder_layers
from sparserve.models.errors import TrainingError
from sparserve.models.pruning.units.method import Batch, model_inputs


@dataclass(frozen=True)
class MaskGradients:
    """dL/dm of every row's loss L in one layer, for masks m = 1 on its heads [rows, heads] and units [rows, units]."""

    heads: Tensor
    units: Tensor


def mask_gradients(model: nn.Module, batches: Sequence[Batch]) -> list[MaskGradients]:
    """Return the mask gradients of every layer, lowest first, for the model's loss on the gold labels.

    Every row of a batch has separate masks, so that one backward pass gives the gradient of each row (Kwon et al. 2022,
    arXiv 2204.09656, section 4). The weights get no gradient. The model should be in eval mode.

    Raises:
        TrainingError: the loss is not finite.
    """
    layers = encoder_layers(model)
    gradients: list[list[Tensor]] = []
    for batch in batches:
        rows = len(batch["labels"])
        masks = [
            batch["input_ids"].new_ones((rows, size), dtype=torch.float32).requires_grad_() for size in _sizes(layers)
        ]
        with _masked(layers, masks):
            loss = model(**model_inputs(batch)).loss
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} on a calibration batch; choosing units needs a finite loss")
        # The loss is the mean over the rows.
        gradients.append([rows * gradient for gradient in torch.autograd.grad(loss, masks)])
    whole = [torch.cat(parts) for parts in zip(*gradients, strict=True)]
    return [MaskGradients(heads, units) for heads, units in zip(whole[::2], whole[1::2], strict=True)]


def rearrange(gradients: Tensor, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Swap removed units for kept ones of the same layer while that lowers the loss (Kwon et al. 2022, section 4.2).

    With `gradients` g_r of row r [rows, units] and s = 1 - m, the loss grows by s' I s / 2 where
    I = sum_r g_r g_r' / rows. Unlike its diagonal, I accounts for units that do the same. Each removed unit in turn is
    swapped for the kept unit that lowers s' I s most, until no swap lowers it. The number of units does not change.
    """
    fisher = (gradients.T.double() @ gradients.double() / len(gradients)).cpu().numpy()
    diagonal = fisher.diagonal()
    kept = kept.copy()
    # d(s' I s)/ds / 2; a swap of i for j changes s' I s by the terms below.
    slope = fisher @ ~kept
    least = 1e-9 * diagonal.sum()
    swapped = True
    while swapped:
        swapped = False
        for removed in np.flatnonzero(~kept):
            change = diagonal + 2 * slope - 2 * fisher[removed] + diagonal[removed] - 2 * slope[removed]
            change[~kept] = np.inf
            best = int(change.argmin())
            if change[best] < -least:
                kept[removed], kept[best] = True, False
                slope += fisher[best] - fisher[removed]
                swapped = True
    return kept


def _sizes(layers: Sequence[EncoderLayer]) -> list[int]:
    return [size for layer in layers for size in (layer.heads, layer.units)]


@contextmanager
def _masked(layers: Sequence[EncoderLayer], masks: Sequence[Tensor]) -> Iterator[None]:
    readers = [linear for layer in layers for linear in (layer.attention_output, layer.output)]
    handles = [reader.register_forward_pre_hook(_times(mask)) for reader, mask in zip(readers, masks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (values,) = inputs  # [batch, length, masks * features per mask]
        masked = values.reshape(*values.shape[:2], mask.shape[-1], -1) * mask[:, None, :, None]
        return (masked.view(values.shape),)

    return hook
