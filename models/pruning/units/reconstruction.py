"""Least-squares refit of a squeezed network's layers to what the dense network computes, without labels or training.

Kwon et al. 2022 (arXiv 2204.09656, section 4.3) scale what stays by one factor a head and unit so that each layer's
output comes close to the dense one's; here all kept columns of attention output and FFN output are solved for, which
costs the same pass over the data and can only fit better.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from sparserve.models.encoders import squeezing
from sparserve.models.encoders.layers import EncoderLayer, encoder_layers
from sparserve.models.encoders.structure import Structure
from sparserve.models.pruning.units.method import Batch, model_inputs
from sparserve.models.pruning.units.moments import JointMoments

DAMPING: Final = 0.01  # from 0.001 to 1 the answers hardly differ
REVISION: Final = 2  # raised when the same network is refitted to another one than before
TOKENS: Final = 2**15  # more calibration tokens cost time and memory and change little


@dataclass(frozen=True)
class Fit:
    """Mean squared difference of a token's vector from the dense network's, summed over features, before and after."""

    before: float
    after: float


def squeeze_and_refit(
    model: nn.Module, structure: Structure, batches: Sequence[Batch], *, damping: float = DAMPING
) -> list[Fit]:
    """Squeeze `model` in place to the heads and units that `structure` keeps, and refit it to what it was."""
    dense = copy.deepcopy(model)
    squeezing.squeeze(model, structure)
    return refit(model, dense, batches, damping=damping)


@torch.no_grad()
def refit(model: nn.Module, dense: nn.Module, batches: Sequence[Batch], *, damping: float) -> list[Fit]:
    """Solve for the kept columns of attention output and FFN output of a squeezed `model`, in place.

    From the lowest layer up, for each of the two sums z = x + W c + b that a layer's LayerNorms read (x: the residual
    stream; c: context of the kept heads or activations of the kept units; all as the squeezed and so far refitted
    network computes them): the change of W and b that minimises, over calibration tokens, the mean of |z_dense - z|^2
    plus lambda |change of W|^2, where lambda is `damping` times the mean variance of c. Weights that are zero stay so:
    a network that was pruned is not regrown. To change nothing is among what is minimised over, so the difference
    never grows on these tokens. The hidden size must be the dense network's.

    Returns:
        Two results a layer, the lowest first: attention output, FFN output.
    """
    runs = _runs(dense, batches)
    fits = []
    for small, whole in zip(encoder_layers(model), encoder_layers(dense), strict=True):
        targets = []
        for run in runs:
            passed = _pass(whole, run, run.dense)
            targets.append(passed.sums)
            run.dense = passed.output
        for part, linear in enumerate((small.attention_output, small.output)):
            moments = JointMoments()
            for run, target in zip(runs, targets, strict=True):
                passed = _pass(small, run, run.squeezed)
                difference = target[part] - passed.sums[part]
                moments.add(difference[run.tokens], passed.read[part][run.tokens])
            fits.append(solve(linear, moments, damping))
        for run in runs:
            run.squeezed = _pass(small, run, run.squeezed).output
    return fits


@dataclass
class _Run:
    """A batch on its way up: hidden states of both networks [batch, length, hidden], and what else a layer takes."""

    tokens: Tensor  # [batch, length], True at real tokens
    dense: Tensor
    squeezed: Tensor
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True)
class _Pass:
    read: tuple[Tensor, Tensor]  # inputs of attention output and FFN output
    sums: tuple[Tensor, Tensor]  # inputs of the two LayerNorms
    output: Tensor


class _Reached(Exception):
    """The first layer was called: the layers above need not run."""


def _runs(model: nn.Module, batches: Sequence[Batch]) -> list[_Run]:
    runs: list[_Run] = []
    tokens = 0
    for batch in batches:
        if tokens >= TOKENS:
            break
        mask = batch["attention_mask"].bool()
        tokens += int(mask.sum())

        def keep(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], mask: Tensor = mask) -> None:
            runs.append(_Run(mask, arguments[0], arguments[0], arguments[1:], keywords))
            raise _Reached

        handle = encoder_layers(model)[0].module.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            model(**model_inputs(batch))
        except _Reached:
            pass
        finally:
            handle.remove()
    return runs


def _pass(layer: EncoderLayer, run: _Run, hidden: Tensor) -> _Pass:
    first, second = (module for module in layer.module.modules() if isinstance(module, nn.LayerNorm))
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[0]

    watched = (layer.attention_output, layer.output, first, second)
    handles = [module.register_forward_pre_hook(keep) for module in watched]
    try:
        output = layer.module(hidden, *run.arguments, **run.keywords)
    finally:
        for handle in handles:
            handle.remove()
    return _Pass(
        (seen[layer.attention_output], seen[layer.output]),
        (seen[first], seen[second]),
        output[0] if isinstance(output, tuple) else output,
    )


@torch.no_grad()
def solve(linear: nn.Linear, moments: JointMoments, damping: float) -> Fit:
    """Change the nonzero weights and the bias of `linear`, in place, by the least squares that `refit` describes.

    `moments` are of what its output lacks, X [outputs], with its inputs, Y [inputs]. A row has a Cholesky factor of
    its own unless another has the same zeros.
    """
    spread, bias = float(moments.xx.sum()), moments.x_mean
    before = spread + float(bias.square().sum())
    covariance, cross = moments.yy, moments.xy
    # What varies by float32's rounding alone does not vary: no weight may be made large enough to see it.
    rounding = torch.finfo(torch.float32).eps * moments.y_mean.square().mean()
    change = _least_squares(covariance, cross, damping * covariance.diagonal().mean() + rounding, linear.weight != 0)
    after = spread - 2 * float((change * cross).sum()) + float(((change @ covariance) * change).sum())
    linear.weight.add_(change)
    linear.bias.add_(bias - change @ moments.y_mean)
    return Fit(before, after)


def _least_squares(covariance: Tensor, cross: Tensor, ridge: Tensor, free: Tensor) -> Tensor:
    """The change [outputs, inputs] of the weights that are `free`; of equal rows of these one factor serves all."""
    change = torch.zeros_like(cross)
    patterns, pattern_of = torch.unique(free, dim=0, return_inverse=True)
    for index, inputs in enumerate(patterns):
        rows = (pattern_of == index).nonzero()
        columns = inputs.nonzero().flatten()
        among = covariance[columns[:, None], columns]
        noise = ridge * torch.eye(len(columns), dtype=covariance.dtype, device=covariance.device)
        factor, failed = torch.linalg.cholesky_ex(among + noise)
        # Where nothing that stays varies, only the bias can make up for what went.
        if len(columns) and not int(failed):
            change[rows, columns] = torch.cholesky_solve(cross[rows, columns].T, factor).T
    return change
