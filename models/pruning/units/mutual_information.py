"""Units chosen from the logits down to the embeddings by mutual information with the units already kept above.

Layer-wise model pruning based on mutual information (Fan et al., EMNLP 2021, arXiv 2108.12594), under a Gaussian model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparserve.models.encoders import squeezing
from sparserve.models.encoders.layers import EncoderLayer, encoder_layers
from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.pruning.units.method import Batch, UnitMethod, kept_count, model_inputs
from sparserve.models.pruning.units.moments import JointMoments
from sparserve.models.pruning.units.reconstruction import REVISION, squeeze_and_refit
from sparserve.models.recipes.schema import Squeeze


def mutual_information(moments: JointMoments, shrinkage: float, kept: Sequence[int] | None = None) -> Tensor:
    """I(X_b; Y) in nats of every block of features X_b with the features Y, or those of Y that are `kept`; [blocks].

    For jointly Gaussian X_b and Y, with covariances B and S and cross-covariance C [features of X_b, features of Y],

        I(X_b; Y) = (log det B - log det(B - C (S + eps I)^-1 C')) / 2,

    which for a block of one feature of variance v is -log(1 - R^2) / 2 with R^2 = c' (S + eps I)^-1 c / v. Here eps is
    `shrinkage` times the mean variance of Y: each feature of Y is seen through noise of that variance, without which
    Y of full rank would tell everything about what it is a linear function of, and all units would rank the same. One
    Cholesky factor of S + eps I serves all blocks.

    Raises:
        RecipeError: there are no more vectors than features in a block and Y: the covariance says nothing.
        CheckpointError: the features are no finite numbers.
    """
    chosen = torch.arange(len(moments.yy)) if kept is None else torch.tensor(kept)
    _enough(moments.count, len(chosen) + moments.block)
    blocks, cross, upper = moments.xx, moments.xy[:, chosen], moments.yy[chosen][:, chosen]
    if not bool(blocks.isfinite().all() and upper.isfinite().all()):
        raise CheckpointError("the network computes values that are not finite numbers: take a checkpoint that answers")
    # Features that never vary, but by float32's rounding, tell nothing and are told nothing: they are below the floor.
    eps, tiny = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
    floor = eps * (blocks.diagonal(dim1=1, dim2=2).mean() + moments.x_mean.square().mean()) + tiny
    blocks = blocks + floor * torch.eye(moments.block, dtype=blocks.dtype, device=blocks.device)
    noise = shrinkage * upper.diagonal().mean() + eps * moments.y_mean[chosen].square().mean() + tiny
    seen = upper + noise * torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    factor, failed = torch.linalg.cholesky_ex(seen)
    whitened = torch.linalg.solve_triangular(factor, cross.T, upper=False)  # [features of Y, features of X]
    told = whitened.T.reshape(-1, moments.block, len(chosen))
    unexplained = blocks - told @ told.transpose(1, 2)
    information = (torch.logdet(blocks) - torch.logdet(unexplained)) / 2
    if int(failed) or not bool(information.isfinite().all()):
        raise RecipeError(
            f"squeeze.options.shrinkage {shrinkage:g} is too small for these activations: raise it, 0.1 is usual"
        )
    return information


class MutualInformation(UnitMethod):
    """The units that tell most about what is kept above them.

    A layer's feed-forward units are compared with the value vectors of the heads kept in the layer above, token by
    token: that is how attention, and so every other token, reads what the layer wrote into the residual stream. Its
    heads are compared with the feed-forward units kept in the same layer. A head is the block of its context features:
    their joint information, unlike a sum over features, stays the same under any change of basis within the head,
    which value and output matrices can make without changing the function. Only the first token of the last layer
    reaches the classifier, so that layer's heads and units are compared, at that token, with the logits: one vector a
    row would be too few for the covariance of its units. A hidden dimension counts in every layer: the sum of what it
    tells, in each residual stream, about the value vectors that read it, and in the last one about the logits.

    `squeeze.flops` keeps that fraction of the heads and of the units of every layer.
    """

    def __init__(self, shrinkage: float = 0.1, tune: bool = False) -> None:
        """Keep the options.

        Args:
            shrinkage: the noise with which kept units are seen, as a fraction of their mean variance.
            tune: refit what stays to the dense network's layers by least squares (`reconstruction`), for a network
                that is not trained afterwards; not where hidden dimensions go.
        """
        if shrinkage <= 0:
            raise ValueError(f"shrinkage must be above 0, not {shrinkage:g}")
        self.shrinkage = shrinkage
        self.tune = tune
        self.revision = REVISION if tune else 1

    def check(self, model: nn.Module, squeeze: Squeeze, lengths: Sequence[int] | None = None) -> None:
        """See that something stays of every layer, that rows are many, and that no refit goes with a narrowing."""
        if self.tune and squeeze.hidden < 1:
            raise RecipeError(
                "squeeze.options.tune: layers without some hidden dimensions cannot be refitted to the dense ones: "
                "set it to false, or squeeze.hidden to 1"
            )
        layers = encoder_layers(model)
        _counts(layers, squeeze)
        kept_count(squeeze.hidden, layers[0].query.in_features, "hidden dimensions")
        if lengths is not None:
            all_rows = len(lengths) < squeeze.calibration
            _enough(sum(lengths), _widest(layers), all_rows=all_rows)
            config: Any = model.config
            # The last layer's heads are compared with the logits, at the first token alone.
            _enough(len(lengths), config.num_labels + layers[-1].head_size, all_rows=all_rows)

    def apply(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose units, squeeze `model` in place, and return what was kept; a fine-tuning should follow."""
        self.check(model, squeeze)
        model.eval()
        structure = self.choose(model, batches, squeeze)
        if self.tune:
            squeeze_and_refit(model, structure, batches)
        else:
            squeezing.squeeze(model, structure)
        return structure

    def choose(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose units; the network stays as it is.

        Raises:
            RecipeError: the calibration rows are too few, or a layer would be left without heads, units or dimensions.
        """
        layers = encoder_layers(model)
        counts = _counts(layers, squeeze)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        _enough(tokens, _widest(layers))
        moments = _observe(model, layers, batches)
        heads: list[tuple[int, ...]] = []
        units: list[tuple[int, ...]] = []
        hidden = mutual_information(moments.last_hidden, self.shrinkage)
        values_above: list[int] | None = None  # None: what is above are the logits
        for index in reversed(range(len(layers))):
            layer, seen, (keep_heads, keep_units) = layers[index], moments.layers[index], counts[index]
            units.insert(0, _highest(mutual_information(seen.units, self.shrinkage, values_above), keep_units))
            above = units[0] if values_above is not None else None
            heads.insert(0, _highest(mutual_information(seen.heads, self.shrinkage, above), keep_heads))
            values_above = [head * layer.head_size + place for head in heads[0] for place in range(layer.head_size)]
            hidden = hidden + mutual_information(seen.hidden, self.shrinkage, values_above)
        width = layers[0].query.in_features
        keep_hidden = kept_count(squeeze.hidden, width, "hidden dimensions")
        return Structure(
            heads=tuple(heads),
            units=tuple(units),
            hidden=_highest(hidden, keep_hidden) if keep_hidden < width else None,
        )


@dataclass(frozen=True)
class _LayerMoments:
    """X with Y of one layer; the comments say what Y is, in the last layer the logits where there are two."""

    units: JointMoments  # value vectors of the layer above, or logits
    heads: JointMoments  # the layer's units, or logits
    hidden: JointMoments  # hidden states that the layer reads, with its own value vectors


@dataclass(frozen=True)
class _Moments:
    layers: list[_LayerMoments]
    last_hidden: JointMoments  # what the classifier reads, with the logits


@torch.no_grad()
def _observe(model: nn.Module, layers: Sequence[EncoderLayer], batches: Sequence[Batch]) -> _Moments:
    """One pass over the calibration rows; padding counts nowhere."""
    moments = _Moments(
        [_LayerMoments(JointMoments(), JointMoments(layer.head_size), JointMoments()) for layer in layers],
        JointMoments(),
    )
    for batch in batches:
        tokens = batch["attention_mask"].bool()
        with _watched(layers) as seen:
            logits = model(**{name: value for name, value in model_inputs(batch).items() if name != "labels"}).logits
        for index, (layer, sums) in enumerate(zip(layers, moments.layers, strict=True)):
            (context, _), (units, _) = seen[layer.attention_output], seen[layer.output]
            states, values = seen[layer.value]
            sums.hidden.add(states[tokens], values[tokens])
            if index + 1 == len(layers):
                sums.units.add(units[:, 0], logits)
                sums.heads.add(context[:, 0], logits)
            else:
                sums.units.add(units[tokens], seen[layers[index + 1].value][1][tokens])
                sums.heads.add(context[tokens], units[tokens])
        moments.last_hidden.add(seen[layers[-1].module][1][:, 0], logits)
    return moments


@contextmanager
def _watched(layers: Sequence[EncoderLayer]) -> Iterator[Mapping[nn.Module, tuple[Tensor, Tensor]]]:
    """Within the block, the first input and output of the latest call of each linear that is looked at."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        seen[module] = inputs[0], output[0] if isinstance(output, tuple) else output

    watched = [linear for layer in layers for linear in (layer.attention_output, layer.value, layer.output)]
    handles = [module.register_forward_hook(keep) for module in (*watched, layers[-1].module)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _counts(layers: Sequence[EncoderLayer], squeeze: Squeeze) -> list[tuple[int, int]]:
    """Heads and units that stay in each layer."""
    if squeeze.flops is None:
        heads = [kept_count(squeeze.heads, layer.heads, "heads") for layer in layers]
        units = [kept_count(squeeze.units, layer.units, "units") for layer in layers]
    else:
        smallest = max(1 / min(layer.heads, layer.units) for layer in layers)
        if squeeze.flops < smallest:
            raise RecipeError(
                f"squeeze.flops {squeeze.flops:g} would squeeze a layer to zero heads: "
                f"the smallest fraction is {math.ceil(1e4 * smallest) / 1e4:g}"
            )
        heads = [kept_count(_below(squeeze.flops, layer.heads), layer.heads, "heads") for layer in layers]
        units = [kept_count(_below(squeeze.flops, layer.units), layer.units, "units") for layer in layers]
    return list(zip(heads, units, strict=True))


def _below(fraction: float, total: int) -> float:
    """The largest fraction of `total` things that is a whole number of them and within `fraction`."""
    return int(fraction * total + 1e-9) / total


def _highest(information: Tensor, count: int) -> tuple[int, ...]:
    """The `count` blocks that tell most, in order; of equals the first."""
    return tuple(sorted(information.argsort(descending=True, stable=True)[:count].tolist()))


def _widest(layers: Sequence[EncoderLayer]) -> int:
    """The most features that are told apart at once: a head's with all that they may be compared with."""
    return max(layer.head_size + max(layer.units, layer.value.out_features) for layer in layers)


def _enough(vectors: int, features: int, *, all_rows: bool = False) -> None:
    """See that there are more vectors than features; `all_rows`: the data has no more rows to calibrate on."""
    if vectors <= features:
        more = "the data has no more training rows: give more, or squeeze by post-training, which needs fewer"
        raise RecipeError(
            f"squeeze.calibration: its rows give {vectors} vectors, too few to tell {features} features apart; "
            + (more if all_rows else "raise it until there are many more vectors than features")
        )
