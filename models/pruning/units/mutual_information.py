"""Choose units from the logits down to the embeddings, by mutual information with the kept units above.

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
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.layers import EncoderLayer, encoder_layers
from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.pruning.units.method import Batch, UnitMethod, kept_count, model_inputs
from sparserve.models.pruning.units.moments import JointMoments
from sparserve.models.pruning.units.reconstruction import REVISION, squeeze_and_refit
from sparserve.models.recipes.schema import Squeeze


def mutual_information(moments: JointMoments, shrinkage: float, kept: Sequence[int] | None = None) -> Tensor:
    """Return I(X_b; Y) in nats of every block of features X_b with the features Y, or the `kept` ones; [blocks].

    For jointly Gaussian X_b and Y, with covariances B and S and cross-covariance C [features of X_b, features of Y],

        I(X_b; Y) = (log det B - log det(B - C (S + eps I)^-1 C')) / 2.

    For a block of one feature of variance v this is -log(1 - R^2) / 2 with R^2 = c' (S + eps I)^-1 c / v. Here eps is
    `shrinkage` times the mean variance of Y, as if each feature of Y had noise of that variance. Without noise a Y of
    full rank would determine everything that it is a linear function of, and all units would rank the same. All blocks
    share one Cholesky factor of S + eps I.

    Raises:
        RecipeError: there are too few vectors for a covariance: no more than features in a block and Y.
        CheckpointError: the features are not finite.
    """
    columns = torch.arange(len(moments.yy)) if kept is None else torch.tensor(kept)
    _check_vector_count(moments.count, len(columns) + moments.block)
    blocks, cross, upper = moments.xx, moments.xy[:, columns], moments.yy[columns][:, columns]
    if not bool(blocks.isfinite().all() and upper.isfinite().all()):
        raise CheckpointError("the network computes values that are not finite. Use another checkpoint.")
    # Variances below this floor are float32 rounding: such features carry no information.
    eps, tiny = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
    floor = eps * (blocks.diagonal(dim1=1, dim2=2).mean() + moments.x_mean.square().mean()) + tiny
    blocks = blocks + floor * torch.eye(moments.block, dtype=blocks.dtype, device=blocks.device)
    noise = shrinkage * upper.diagonal().mean() + eps * moments.y_mean[columns].square().mean() + tiny
    noisy = upper + noise * torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    factor, failed = torch.linalg.cholesky_ex(noisy)
    whitened = torch.linalg.solve_triangular(factor, cross.T, upper=False)  # [features of Y, features of X]
    explaining = whitened.T.reshape(-1, moments.block, len(columns))
    unexplained = blocks - explaining @ explaining.transpose(1, 2)
    information = (torch.logdet(blocks) - torch.logdet(unexplained)) / 2
    if int(failed) or not bool(information.isfinite().all()):
        raise RecipeError(
            f"squeeze.options.shrinkage {shrinkage:g} is too small for these activations. Raise it; 0.1 is usual."
        )
    return information


class MutualInformation(UnitMethod):
    """Keep the units with the most mutual information with the kept units above them.

    Feed-forward units of a layer are compared with the value vectors of the kept heads in the layer above, token by
    token: attention, and through it every other token, reads the residual stream through these. Heads are compared with
    the kept feed-forward units of the same layer. A head is the block of its context features. Their joint information,
    unlike a sum over features, does not depend on the basis within the head, which the value and output matrices can
    change without changing the function.

    Only the first token of the last layer reaches the classifier, or the mean of all. The heads and units of that layer
    are compared with the logits there, because one vector per row is too few for the covariance of its units. A hidden
    dimension scores the sum, over all residual streams, of its information about the value vectors that read it, and in
    the last stream about the logits.

    `squeeze.flops` keeps that fraction of the heads and of the units in every layer.
    """

    def __init__(self, shrinkage: float = 0.1, tune: bool = False) -> None:
        """Store the options.

        Args:
            shrinkage: the noise added to kept units, as a fraction of their mean variance.
            tune: refit the kept weights to the layers of the dense network by least squares (`reconstruction`), for a
                network that is not trained afterwards. Not available when hidden dimensions are removed.
        """
        if shrinkage <= 0:
            raise ValueError(f"shrinkage is {shrinkage:g}; it must be above 0")
        self.shrinkage = shrinkage
        self.tune = tune
        self.revision = REVISION if tune else 1

    def check(self, model: nn.Module, squeeze: Squeeze, lengths: Sequence[int] | None = None) -> None:
        """Check that every layer keeps units, that there are enough rows, and that `tune` keeps the hidden size."""
        if self.tune and squeeze.hidden < 1:
            raise RecipeError(
                "squeeze.options.tune: layers with fewer hidden dimensions cannot be refitted to the dense layers. "
                "Set it to false, or squeeze.hidden to 1."
            )
        layers = encoder_layers(model)
        _counts(layers, squeeze)
        kept_count(squeeze.hidden, layers[0].query.in_features, "hidden dimensions")
        if lengths is not None:
            all_rows = len(lengths) < squeeze.calibration
            _check_vector_count(sum(lengths), _widest(layers), all_rows=all_rows)
            config: Any = model.config
            # Heads of the last layer are compared with the logits, at the first token only.
            _check_vector_count(len(lengths), config.num_labels + layers[-1].head_size, all_rows=all_rows)

    def apply(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose units, squeeze `model` in place and return the kept units. Fine-tune the result afterwards."""
        self.check(model, squeeze)
        model.eval()
        structure = self.choose(model, batches, squeeze)
        if self.tune:
            squeeze_and_refit(model, structure, batches)
        else:
            squeezing.squeeze(model, structure)
        return structure

    def choose(self, model: nn.Module, batches: Sequence[Batch], squeeze: Squeeze) -> Structure:
        """Choose units without changing the network.

        Raises:
            RecipeError: there are too few calibration rows, or a layer would keep no heads, units or dimensions.
        """
        layers = encoder_layers(model)
        counts = _counts(layers, squeeze)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        _check_vector_count(tokens, _widest(layers))
        moments = _collect_moments(model, layers, batches)
        heads: list[tuple[int, ...]] = []
        units: list[tuple[int, ...]] = []
        hidden = mutual_information(moments.last_hidden, self.shrinkage)
        values_above: list[int] | None = None  # None: the logits are above
        for index in reversed(range(len(layers))):
            layer, sums, (keep_heads, keep_units) = layers[index], moments.layers[index], counts[index]
            units.insert(0, _highest(mutual_information(sums.units, self.shrinkage, values_above), keep_units))
            units_above = units[0] if values_above is not None else None
            heads.insert(0, _highest(mutual_information(sums.heads, self.shrinkage, units_above), keep_heads))
            values_above = [head * layer.head_size + place for head in heads[0] for place in range(layer.head_size)]
            hidden = hidden + mutual_information(sums.hidden, self.shrinkage, values_above)
        width = layers[0].query.in_features
        keep_hidden = kept_count(squeeze.hidden, width, "hidden dimensions")
        return Structure(
            heads=tuple(heads),
            units=tuple(units),
            hidden=_highest(hidden, keep_hidden) if keep_hidden < width else None,
        )


@dataclass(frozen=True)
class _LayerMoments:
    """Moments of one layer's units, heads and hidden states as X. The comments name Y."""

    units: JointMoments  # value vectors of the layer above; logits in the last layer
    heads: JointMoments  # units of the layer; logits in the last layer
    hidden: JointMoments  # value vectors of the layer (X: the hidden states it reads)


@dataclass(frozen=True)
class _Moments:
    layers: list[_LayerMoments]
    last_hidden: JointMoments  # logits (X: the hidden states that the classifier reads)


@torch.no_grad()
def _collect_moments(model: nn.Module, layers: Sequence[EncoderLayer], batches: Sequence[Batch]) -> _Moments:
    """Run the model over the calibration rows once and sum the moments of real tokens."""
    moments = _Moments(
        [_LayerMoments(JointMoments(), JointMoments(layer.head_size), JointMoments()) for layer in layers],
        JointMoments(),
    )
    config: Any = model.config
    pooled = _mean if architecture_of(config).pools_mean(config) else _first
    for batch in batches:
        tokens = batch["attention_mask"].bool()
        with _recorded(layers) as records:
            logits = model(**{name: value for name, value in model_inputs(batch).items() if name != "labels"}).logits
        for index, (layer, sums) in enumerate(zip(layers, moments.layers, strict=True)):
            (context, _), (units, _) = records[layer.attention_output], records[layer.output]
            states, values = records[layer.value.linear]
            values = layer.value.of(values)
            sums.hidden.add(states[tokens], values[tokens])
            if index + 1 == len(layers):
                sums.units.add(pooled(units, tokens), logits)
                sums.heads.add(pooled(context, tokens), logits)
            else:
                above = layers[index + 1].value
                sums.units.add(units[tokens], above.of(records[above.linear][1])[tokens])
                sums.heads.add(context[tokens], units[tokens])
        moments.last_hidden.add(pooled(records[layers[-1].module][1], tokens), logits)
    return moments


def _first(features: Tensor, tokens: Tensor) -> Tensor:
    return features[:, 0]


def _mean(features: Tensor, tokens: Tensor) -> Tensor:
    return (features * tokens[..., None]).sum(1) / tokens.sum(1, keepdim=True)


@contextmanager
def _recorded(layers: Sequence[EncoderLayer]) -> Iterator[Mapping[nn.Module, tuple[Tensor, Tensor]]]:
    """Yield a mapping that holds the first input and the output of each module's latest call within the context."""
    records: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        records[module] = inputs[0], output[0] if isinstance(output, tuple) else output

    linears = [linear for layer in layers for linear in (layer.attention_output, layer.value.linear, layer.output)]
    handles = [module.register_forward_hook(record) for module in (*linears, layers[-1].module)]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _counts(layers: Sequence[EncoderLayer], squeeze: Squeeze) -> list[tuple[int, int]]:
    """Return the numbers of heads and units to keep in each layer."""
    if squeeze.flops is None:
        heads = [kept_count(squeeze.heads, layer.heads, "heads") for layer in layers]
        units = [kept_count(squeeze.units, layer.units, "units") for layer in layers]
    else:
        smallest = max(1 / min(layer.heads, layer.units) for layer in layers)
        if squeeze.flops < smallest:
            raise RecipeError(
                f"squeeze.flops is {squeeze.flops:g}, which would leave a layer with zero heads. "
                f"The smallest fraction is {math.ceil(1e4 * smallest) / 1e4:g}."
            )
        heads = [kept_count(_below(squeeze.flops, layer.heads), layer.heads, "heads") for layer in layers]
        units = [kept_count(_below(squeeze.flops, layer.units), layer.units, "units") for layer in layers]
    return list(zip(heads, units, strict=True))


def _below(fraction: float, total: int) -> float:
    """Return the largest multiple of 1 / `total` that is at most `fraction`."""
    return int(fraction * total + 1e-9) / total


def _highest(information: Tensor, count: int) -> tuple[int, ...]:
    """Return the sorted indices of the `count` blocks with the most information; the first of equals wins."""
    return tuple(sorted(information.argsort(descending=True, stable=True)[:count].tolist()))


def _widest(layers: Sequence[EncoderLayer]) -> int:
    """Return the largest number of features in one comparison: those of a head and of its counterpart."""
    return max(layer.head_size + max(layer.units, layer.value.out_features) for layer in layers)


def _check_vector_count(vectors: int, features: int, *, all_rows: bool = False) -> None:
    """Check that there are more vectors than features. `all_rows` means that no more rows exist to calibrate on."""
    if vectors <= features:
        all_used = "All training rows are in use: add data, or use the method post-training, which needs fewer rows."
        raise RecipeError(
            f"squeeze.calibration: the rows give {vectors} vectors, too few for {features} features. "
            + (all_used if all_rows else "Raise it until there are many more vectors than features.")
        )
