"""Least-squares refit of the layers of a squeezed network to the dense network, without labels or training.

Kwon et al. 2022 (arXiv 2204.09656, section 4.3) scale kept heads and units by one factor each to approximate the output
of each dense layer. Here all kept columns of attention output and FFN output are solved for. That needs the same pass
over the data and fits at least as well.
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

DAMPING: Final = 0.01  # predictions hardly differ between 0.001 and 1
REVISION: Final = 2  # raised when the refit gives another network than before
MAX_TOKENS: Final = 2**15  # more calibration tokens cost time and memory and change little


@dataclass(frozen=True)
class Fit:
    """Squared error against the dense network before and after: mean over tokens, summed over features."""

    before: float
    after: float


def squeeze_and_refit(
    model: nn.Module, structure: Structure, batches: Sequence[Batch], *, damping: float = DAMPING
) -> list[Fit]:
    """Squeeze `model` in place to the heads and units of `structure`, and refit it to the network it was."""
    dense = copy.deepcopy(model)
    squeezing.squeeze(model, structure)
    return refit(model, dense, batches, damping=damping)


@torch.no_grad()
def refit(model: nn.Module, dense: nn.Module, batches: Sequence[Batch], *, damping: float) -> list[Fit]:
    """Solve for the kept columns of attention output and FFN output of a squeezed `model`, in place.

    Layers are solved from the lowest up. A layer computes two sums z = x + W c + b, where x is the residual stream and
    c the context of the kept heads or the activations of the kept units, both computed by the squeezed network as
    refitted so far. For each sum, W and b change so as to minimise the mean over calibration tokens of
    |z_dense - z|^2 plus lambda |change of W|^2, where lambda is `damping` times the mean variance of c. Zero weights
    stay zero, so a pruned network does not regrow. No change is one of the candidates, so the error on these tokens
    never grows. The hidden size must be that of the dense network.

    Returns:
        Two results per layer, lowest layer first: attention output, FFN output.
    """
    runs = _runs(dense, batches)
    fits = []
    for index, (small, whole) in enumerate(zip(encoder_layers(model), encoder_layers(dense), strict=True)):
        targets = []
        for run in runs:
            passed = _pass(whole, run.calls[index], run.dense)
            targets.append(passed.sums)
            run.dense = passed.output
        for part, linear in enumerate((small.attention_output, small.output)):
            moments = JointMoments()
            for run, target in zip(runs, targets, strict=True):
                passed = _pass(small, run.calls[index], run.squeezed)
                difference = target[part] - passed.sums[part]
                moments.add(difference[run.tokens], passed.inputs[part][run.tokens])
            fits.append(solve(linear, moments, damping))
        for run in runs:
            run.squeezed = _pass(small, run.calls[index], run.squeezed).output
    return fits


@dataclass(frozen=True)
class _Call:
    """Arguments of a layer besides its hidden states, such as masks, which may differ between layers."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass
class _Run:
    """A batch between two layers: hidden states of both networks [batch, length, hidden]."""

    tokens: Tensor  # [batch, length], True at real tokens
    dense: Tensor
    squeezed: Tensor
    calls: list[_Call]  # of the layers, the lowest first


@dataclass(frozen=True)
class _Pass:
    inputs: tuple[Tensor, Tensor]  # of attention output and FFN output
    sums: tuple[Tensor, Tensor]  # after attention and after the feed-forward, before any norm of them
    output: Tensor


class _LastLayerReached(Exception):
    """Stops the forward pass at the last layer: the inputs of the layers are all that is needed."""


def _runs(model: nn.Module, batches: Sequence[Batch]) -> list[_Run]:
    runs: list[_Run] = []
    layers = encoder_layers(model)
    tokens = 0
    for batch in batches:
        if tokens >= MAX_TOKENS:
            break
        mask = batch["attention_mask"].bool()
        tokens += int(mask.sum())

        states: list[Tensor] = []
        calls: list[_Call] = []

        def record(
            module: nn.Module,
            arguments: tuple[Any, ...],
            keywords: dict[str, Any],
            states: list[Tensor] = states,
            calls: list[_Call] = calls,
        ) -> None:
            states.append(arguments[0])
            calls.append(_Call(arguments[1:], keywords))
            if len(calls) == len(layers):
                raise _LastLayerReached

        handles = [layer.module.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
        try:
            model(**model_inputs(batch))
        except _LastLayerReached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        runs.append(_Run(mask, states[0], states[0], calls))
    return runs


def _pass(layer: EncoderLayer, call: _Call, hidden: Tensor) -> _Pass:
    first, second = layer.norms
    recorded: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        recorded[module] = inputs[0]

    observed_modules = (layer.attention_output, layer.output, first, second)
    handles = [module.register_forward_pre_hook(record) for module in observed_modules]
    try:
        output = layer.module(hidden, *call.arguments, **call.keywords)
    finally:
        for handle in handles:
            handle.remove()
    output = output[0] if isinstance(output, tuple) else output
    return _Pass(
        (recorded[layer.attention_output], recorded[layer.output]),
        (recorded[second], output) if layer.norm_first else (recorded[first], recorded[second]),
        output,
    )


@torch.no_grad()
def solve(linear: nn.Linear, moments: JointMoments, damping: float) -> Fit:
    """Change the nonzero weights and the bias of `linear`, in place, by the least squares that `refit` describes.

    In `moments`, X [outputs] is the missing part of its output and Y [inputs] are its inputs. Rows with the same zeros
    share one Cholesky factor. Without a bias, moments about zero take the place of those about the mean.
    """
    spread, bias = float(moments.xx.sum()), moments.x_mean
    before = spread + float(bias.square().sum())
    covariance, cross = moments.yy, moments.xy
    if linear.bias is None:
        spread = before
        covariance = covariance + torch.outer(moments.y_mean, moments.y_mean)
        cross = cross + torch.outer(moments.x_mean, moments.y_mean)
    # Treat variation within float32 rounding as none, so that no weight grows large to fit it.
    rounding = torch.finfo(torch.float32).eps * moments.y_mean.square().mean()
    change = _least_squares(covariance, cross, damping * covariance.diagonal().mean() + rounding, linear.weight != 0)
    after = spread - 2 * float((change * cross).sum()) + float(((change @ covariance) * change).sum())
    linear.weight.add_(change)
    if linear.bias is not None:
        linear.bias.add_(bias - change @ moments.y_mean)
    return Fit(before, after)


def _least_squares(covariance: Tensor, cross: Tensor, ridge: Tensor, free: Tensor) -> Tensor:
    """Return the change [outputs, inputs] of the `free` weights, with one factor per distinct row of `free`."""
    change = torch.zeros_like(cross)
    patterns, pattern_of = torch.unique(free, dim=0, return_inverse=True)
    for index, inputs in enumerate(patterns):
        rows = (pattern_of == index).nonzero()
        columns = inputs.nonzero().flatten()
        submatrix = covariance[columns[:, None], columns]
        noise = ridge * torch.eye(len(columns), dtype=covariance.dtype, device=covariance.device)
        factor, failed = torch.linalg.cholesky_ex(submatrix + noise)
        # If no kept input varies, only the bias can compensate.
        if len(columns) and not int(failed):
            change[rows, columns] = torch.cholesky_solve(cross[rows, columns].T, factor).T
    return change
