"""Small dense students: fewer layers, or a narrower network, that begin with the weights of the start network."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from sparserve.models.encoders.layer_mapping import uniform_choice
from sparserve.models.encoders.layers import EncoderLayer, encoder_layers, transformer_layers
from sparserve.models.encoders.squeezing import structure_of
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Student

Indices = tuple[int, ...]

SQUEEZED_START: Final = (
    "the network to start from was squeezed, its layers differ from each other: remove layers, hidden_size, "
    "intermediate_size and heads from `student`"
)
_RECORD: Final = "sparserve_dimensions"


def shrink(model: nn.Module, student: Student) -> nn.Module:
    """A network of the same architecture with the layers, width, units and heads that `student` asks for.

    Layers are every k-th of the start's (DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 3), by
    `layer_mapping.uniform_choice`. A narrower network (TinyBERT's shape, Jiao et al. 2020, arXiv 1909.10351) is cut out
    of the start's weights instead of drawn at random: one set of hidden dimensions for all layers, those with the
    largest LayerNorm gains, which are the standard deviations of hidden states; a uniform choice of heads; of each
    head's features, and of the feed-forward units, those with the largest weights, the norm of what they read times
    that of what they write. Weights are not rescaled: measured on a MiniLM, that only took hidden states farther away.

    The network has a configuration of its own, so that it is saved and loaded as any other; its parameters are new
    tensors, its mode is the start's. Where nothing is asked for, `model` itself is returned.

    Raises:
        RecipeError: what is asked for is larger than the start, cannot be built (`check_shape`), or the start was
            squeezed.
        CheckpointError: the architecture is not known.
    """
    config: Any = model.config
    changes = check_shape(config, student)
    if not changes:
        return model
    if structure_of(model) is not None:
        raise RecipeError(SQUEEZED_START)
    smaller: nn.Module = AutoModelForSequenceClassification.from_config(
        type(config).from_dict({**config.to_dict(), **changes}),
        dtype=next(model.parameters()).dtype,
        attn_implementation=config._attn_implementation,
    )
    smaller = smaller.to(next(model.parameters()).device).train(model.training)
    with torch.no_grad():
        dimensions = _copy(model, smaller)
    setattr(smaller, _RECORD, (config.hidden_size, dimensions))
    return smaller


def check_shape(config: PreTrainedConfig, student: Student) -> dict[str, int]:
    """The fields of a start's configuration that this student changes, by their names there, with the new values.

    Raises:
        RecipeError: a number is larger than the start's, the heads do not divide the width, or the width is that of
            embeddings which the start projects to another one.
    """
    changes: dict[str, int] = {}
    names = {
        "layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size" if hasattr(config, "intermediate_size") else "hidden_dim",
        "heads": "num_attention_heads",
    }
    for field, name in names.items():
        asked, has = getattr(student, field), getattr(config, name)
        if asked is None or asked == has:
            continue
        if asked > has:
            raise RecipeError(
                f"student.{field} is {asked}, but the network to start from has {has}: give at most {has}"
            )
        changes[config.attribute_map.get(name, name)] = asked
    width, heads = student.hidden_size or config.hidden_size, student.heads or config.num_attention_heads
    if width % heads:
        raise RecipeError(
            f"student.hidden_size {width} is not divisible by {heads} heads: give a multiple of {heads}, or other heads"
        )
    embeddings = getattr(config, "embedding_size", None)  # ELECTRA's may be narrower than its layers
    if embeddings is not None and width != config.hidden_size:
        if embeddings == config.hidden_size:
            changes["embedding_size"] = width
        elif embeddings == width:
            raise RecipeError(
                f"student.hidden_size {width} is the width of the embeddings, which the network to start from projects "
                f"to {config.hidden_size}: give another width, so that this projection stays"
            )
    return changes


def kept_dimensions(model: nn.Module, teacher_width: int) -> Indices | None:
    """Which of the teacher's hidden dimensions a shrunk or squeezed network began with, for `make_projection`.

    None where that is not known: after a shrunk network was squeezed, or if it began with a network of another width.
    """
    whole_width, dimensions = getattr(model, _RECORD, (None, None))
    structure = structure_of(model)
    if structure is not None:
        config: Any = model.config
        whole_width, dimensions = config.hidden_size, structure.hidden
    return dimensions if whole_width == teacher_width else None


@dataclass(frozen=True)
class _Cut:
    """What stays of the start, the same in all layers."""

    hidden: Indices
    heads: Indices


def _copy(start: nn.Module, smaller: nn.Module) -> Indices:
    """Fill every parameter of the smaller network from the start's; the hidden dimensions that stay are returned."""
    prefix, _ = transformer_layers(smaller)
    old, new = encoder_layers(start), encoder_layers(smaller)
    layers = uniform_choice(len(old), len(new))
    width = old[0].query.in_features
    cut = _Cut(
        _largest(_gains(start, width), new[0].query.in_features),
        uniform_choice(old[0].heads, new[0].heads),
    )
    filled: set[nn.Parameter] = set()
    for layer, index in zip(new, layers, strict=True):
        filled |= _copy_linears(old[index], layer, cut)
    weights = dict(start.named_parameters())
    for name, parameter in smaller.named_parameters():
        if parameter in filled:
            continue
        source = name
        if name.startswith(f"{prefix}."):
            place, _, inner = name.removeprefix(f"{prefix}.").partition(".")
            source = f"{prefix}.{layers[int(place)]}.{inner}"
        weight: torch.Tensor = weights[source]
        for dimension, wanted in enumerate(parameter.shape):
            if weight.shape[dimension] != wanted:
                # Outside of the linears only MPNet's position bias [buckets, heads] has a dimension for heads.
                weight = _select(weight, dimension, cut.hidden if weight.shape[dimension] == width else cut.heads)
        parameter.copy_(weight)
    return cut.hidden


def _copy_linears(source: EncoderLayer, layer: EncoderLayer, cut: _Cut) -> set[nn.Parameter]:
    """Fill the six linears of a layer, and return their parameters."""
    compared = _features(source, layer, cut, _reads(source.query) * _reads(source.key))
    carried = _features(source, layer, cut, _reads(source.value) * _writes(source.attention_output))
    units = _largest(_reads(source.intermediate) * _writes(source.output), layer.units)
    pairs = (
        (source.query, layer.query, compared, cut.hidden),
        (source.key, layer.key, compared, cut.hidden),
        (source.value, layer.value, carried, cut.hidden),
        (source.attention_output, layer.attention_output, cut.hidden, carried),
        (source.intermediate, layer.intermediate, units, cut.hidden),
        (source.output, layer.output, cut.hidden, units),
    )
    for whole, part, outputs, inputs in pairs:
        part.weight.copy_(_select(_select(whole.weight, 0, outputs), 1, inputs))
        part.bias.copy_(_select(whole.bias, 0, outputs))
    return {parameter for _, part, *_ in pairs for parameter in part.parameters()}


def _features(source: EncoderLayer, layer: EncoderLayer, cut: _Cut, importance: torch.Tensor) -> Indices:
    """The features of a projection [heads * head size, hidden] that stay, `importance` [heads * head size]."""
    if layer.head_size > source.head_size:  # neighbouring heads become one
        return uniform_choice(source.heads * source.head_size, layer.heads * layer.head_size)
    features: list[int] = []
    for head in cut.heads:
        begin = head * source.head_size
        kept = _largest(importance[begin : begin + source.head_size], layer.head_size)
        features += [begin + place for place in kept]
    return tuple(features)


def _gains(start: nn.Module, width: int) -> torch.Tensor:
    """Size [hidden] of each hidden dimension: the root of its squared gains, summed over LayerNorms."""
    norms = [norm for norm in start.modules() if isinstance(norm, nn.LayerNorm) and norm.weight.shape == (width,)]
    gains: torch.Tensor = torch.stack([norm.weight for norm in norms]).norm(dim=0)
    return gains


def _reads(linear: nn.Linear) -> torch.Tensor:
    """Norm of each output's weights, [out]."""
    norms: torch.Tensor = linear.weight.norm(dim=1)
    return norms


def _writes(linear: nn.Linear) -> torch.Tensor:
    """Norm of each input's weights, [in]."""
    norms: torch.Tensor = linear.weight.norm(dim=0)
    return norms


def _largest(importance: torch.Tensor, kept: int) -> Indices:
    order = importance.sort(descending=True, stable=True).indices
    return tuple(sorted(order[:kept].tolist()))


def _select(weight: torch.Tensor, dimension: int, kept: Indices) -> torch.Tensor:
    return weight.index_select(dimension, torch.tensor(kept, device=weight.device))
