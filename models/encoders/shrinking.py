"""Small dense students with fewer layers or narrower layers, initialised with weights of the start network."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.layer_mapping import uniform_choice
from sparserve.models.encoders.layers import EncoderLayer, Projection, encoder_layers, transformer_layers
from sparserve.models.encoders.squeezing import structure_of
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Student

Indices = tuple[int, ...]
_Linear = Projection | nn.Linear

SQUEEZED_START: Final = (
    "The network to start from was squeezed, so its layers differ from each other. Remove layers, hidden_size, "
    "intermediate_size and heads from `student`."
)
_RECORD: Final = "sparserve_dimensions"


def shrink(model: nn.Module, student: Student) -> nn.Module:
    """Return a network of the same architecture with the layers, width, units and heads of `student`.

    Layers are every k-th layer of the start network (DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 3), by
    `layer_mapping.uniform_choice`. A narrower network (TinyBERT's shape, Jiao et al. 2020, arXiv 1909.10351) is cut out
    of the start's weights instead of initialised at random:
    - All layers keep the same hidden dimensions, those with the largest LayerNorm gains. A gain is the standard
      deviation of a hidden dimension.
    - Heads are a uniform choice.
    - Features of a head, and feed-forward units, are those with the largest weights: the norm of the weights that they
      read times the norm of the weights that they write.
    Weights are not rescaled: on a MiniLM, rescaling moved the hidden states farther from the teacher's.

    The configuration of the new network is changed accordingly, so it is saved and loaded like any other network. Its
    parameters are new tensors; its mode is the start's. If `student` changes nothing, `model` itself is returned.

    Raises:
        RecipeError: the shape is larger than the start or cannot be built (`check_shape`), or the start was squeezed.
        CheckpointError: the architecture is unknown.
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


def check_shape(config: PreTrainedConfig, student: Student) -> dict[str, Any]:
    """Return the fields of the start's configuration that the student changes, with their new values.

    Raises:
        RecipeError: a number is larger than the start's, the heads do not divide the width, or the width equals the
            width of embeddings that the start projects to another width.
    """
    architecture = architecture_of(config)
    changes: dict[str, Any] = {}
    names = {
        "layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "intermediate_size": architecture.config_name("intermediate_size"),
        "heads": "num_attention_heads",
    }
    for field, name in names.items():
        size, start_size = getattr(student, field), getattr(config, name)
        if size is None or size == start_size:
            continue
        if size > start_size:
            raise RecipeError(
                f"student.{field} is {size}, but the network to start from has {start_size}. Set at most {start_size}."
            )
        changes[config.attribute_map.get(name, name)] = size
    width, heads = student.hidden_size or config.hidden_size, student.heads or config.num_attention_heads
    if width % heads:
        raise RecipeError(
            f"student.hidden_size {width} is not divisible by {heads} heads. Set a multiple of {heads}, or other heads."
        )
    if changes:
        total = config.num_hidden_layers
        kept = uniform_choice(total, student.layers) if student.layers not in (None, total) else None
        changes |= architecture.smaller_config(config, kept, width if width != config.hidden_size else None)
    embeddings = getattr(config, "embedding_size", None)  # ELECTRA's may be narrower than its layers
    if embeddings is not None and width != config.hidden_size:
        if embeddings == config.hidden_size:
            changes["embedding_size"] = width
        elif embeddings == width:
            raise RecipeError(
                f"student.hidden_size {width} is the width of the embeddings, which the network to start from projects "
                f"to {config.hidden_size}. Set another width, so that the projection stays."
            )
    return changes


def kept_dimensions(model: nn.Module, teacher_width: int) -> Indices | None:
    """Return the teacher's hidden dimensions that a shrunk or squeezed network started with, for `make_projection`.

    None if they are unknown: a shrunk network was squeezed, or the start network had another width than the teacher.
    """
    whole_width, dimensions = getattr(model, _RECORD, (None, None))
    structure = structure_of(model)
    if structure is not None:
        config: Any = model.config
        whole_width, dimensions = config.hidden_size, structure.hidden
    return dimensions if whole_width == teacher_width else None


@dataclass(frozen=True)
class _Cut:
    """Hidden dimensions and heads of the start network that all layers keep."""

    hidden: Indices
    heads: Indices


def _copy(start: nn.Module, smaller: nn.Module) -> Indices:
    """Fill every parameter of the smaller network from the start's, and return the kept hidden dimensions."""
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
        for dimension, size in enumerate(parameter.shape):
            if weight.shape[dimension] != size:
                # Besides linears, only MPNet's position bias [buckets, heads] has a dimension for heads.
                weight = _select(weight, dimension, cut.hidden if weight.shape[dimension] == width else cut.heads)
        parameter.copy_(weight)
    return cut.hidden


def _copy_linears(source: EncoderLayer, layer: EncoderLayer, cut: _Cut) -> set[nn.Parameter]:
    """Fill the linears of a layer, and return their parameters."""
    if source.rotary and layer.head_size < source.head_size:
        key_features = _rotated_features(source, layer, cut)
    else:
        key_features = _features(source, layer, cut, _output_norms(source.query) * _output_norms(source.key))
    value_features = _features(source, layer, cut, _output_norms(source.value) * _input_norms(source.attention_output))
    importance = _input_norms(source.output)
    for rows in source.unit_rows:
        importance = importance * _output_norms(rows)
    units = _largest(importance, layer.units)
    pairs: list[tuple[_Linear, _Linear, Indices, Indices]] = [
        (source.query, layer.query, key_features, cut.hidden),
        (source.key, layer.key, key_features, cut.hidden),
        (source.value, layer.value, value_features, cut.hidden),
        (source.attention_output, layer.attention_output, cut.hidden, value_features),
        (source.output, layer.output, cut.hidden, units),
    ]
    pairs += [(*rows, units, cut.hidden) for rows in zip(source.unit_rows, layer.unit_rows, strict=True)]
    for whole, part in ((source.position_query, layer.position_query), (source.position_key, layer.position_key)):
        if whole is not None and part is not None:
            pairs.append((whole, part, key_features, cut.hidden))
    filled: set[nn.Parameter] = set()
    for source_rows, rows_to_fill, outputs, inputs in pairs:
        rows_to_fill.weight.copy_(_select(_select(source_rows.weight, 0, outputs), 1, inputs))
        if source_rows.bias is not None and rows_to_fill.bias is not None:
            rows_to_fill.bias.copy_(_select(source_rows.bias, 0, outputs))
        filled.update((rows_to_fill.linear if isinstance(rows_to_fill, Projection) else rows_to_fill).parameters())
    return filled


def _features(source: EncoderLayer, layer: EncoderLayer, cut: _Cut, importance: torch.Tensor) -> Indices:
    """Return the features of a projection [heads * head size, hidden] to keep; `importance` is [heads * head size]."""
    if layer.head_size > source.head_size:  # neighbouring heads are merged
        return uniform_choice(source.heads * source.head_size, layer.heads * layer.head_size)
    features: list[int] = []
    for head in cut.heads:
        begin = head * source.head_size
        kept = _largest(importance[begin : begin + source.head_size], layer.head_size)
        features += [begin + place for place in kept]
    return tuple(features)


def _rotated_features(source: EncoderLayer, layer: EncoderLayer, cut: _Cut) -> Indices:
    """Return the features of queries and keys whose frequencies are nearest to those of smaller rotated heads.

    Features i and i + d / 2 of a head rotate together, by the frequency theta^(-2 i / d).
    """
    half, kept = source.head_size // 2, layer.head_size // 2
    pairs = [(2 * place * half + kept) // (2 * kept) for place in range(kept)]
    places = [*pairs, *(pair + half for pair in pairs)]
    return tuple(head * source.head_size + place for head in cut.heads for place in places)


def _gains(start: nn.Module, width: int) -> torch.Tensor:
    """Return the size of each hidden dimension, [hidden]: the norm of its gains over all LayerNorms."""
    norms = [norm for norm in start.modules() if isinstance(norm, nn.LayerNorm) and norm.weight.shape == (width,)]
    gains: torch.Tensor = torch.stack([norm.weight for norm in norms]).norm(dim=0)
    return gains


def _output_norms(linear: _Linear) -> torch.Tensor:
    """Return the norm of each output's weights, [out]."""
    norms: torch.Tensor = linear.weight.norm(dim=1)
    return norms


def _input_norms(linear: nn.Linear) -> torch.Tensor:
    """Return the norm of each input's weights, [in]."""
    norms: torch.Tensor = linear.weight.norm(dim=0)
    return norms


def _largest(importance: torch.Tensor, kept: int) -> Indices:
    order = importance.sort(descending=True, stable=True).indices
    return tuple(sorted(order[:kept].tolist()))


def _select(weight: torch.Tensor, dimension: int, kept: Indices) -> torch.Tensor:
    return weight.index_select(dimension, torch.tensor(kept, device=weight.device))
