"""One-shot pruning: raise the masks in a few updates from gradients alone, without an optimiser.

Follows the one-shot experiments of Optimal Brain Surgeon (Hassibi & Stork 1993) and oBERT (Kurtic et al. 2022,
arXiv 2203.07259, section 4.3).
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from sparserve.models.errors import TrainingError
from sparserve.models.pruning.pruner import Pruner
from sparserve.models.recipes.schema import Pruning

Loss = Callable[[nn.Module, dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
Progress = Callable[[int, int, str], None]


def prune_once(
    model: nn.Module,
    pruning: Pruning,
    batches: Iterable[Mapping[str, torch.Tensor]],
    total: int,
    *,
    loss: Loss,
    progress: Progress,
    keep_zeros: bool = False,
) -> Pruner:
    """Prune `model` in place over `total` batches, one schedule step per batch, and leave it in eval mode.

    A batch holds the model's inputs and `row` [batch], the row numbers. Dropout is off, so that the gradients are
    those of the network that is kept.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    model.eval()
    pruner = Pruner(model, pruning, keep_zeros=keep_zeros)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step, batch in enumerate(batches, start=1):
        inputs = dict(batch)
        value = loss(model, inputs, inputs.pop("row"))
        if not torch.isfinite(value):
            raise TrainingError(f"the loss is {value.item()} at batch {step}; one-shot pruning needs a finite loss")
        value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient norm is {norm.item()} at batch {step}; one-shot pruning needs a finite norm"
            )
        pruner.observe(step, total)
        pruner.after(step, total)
        for parameter in parameters:
            parameter.grad = None
        progress(step, total, f"sparsity {pruner.masks.sparsity():.3f}")
    return pruner
