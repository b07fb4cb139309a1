"""Squeezing: removal of heads, units and hidden dimensions, so that matrices become smaller and stay dense."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.layers import EncoderLayer, Projection, encoder_layers
from sparserve.models.encoders.structure import Structure, compose
from sparserve.models.errors import CheckpointError

Indices = tuple[int, ...]
Narrowing = tuple[Callable[[Any, Indices], None], nn.Module]

_RECORD: Final = "sparserve_structure"
_BIAS_HEADS: Final = "position_bias_heads"


def squeeze(model: nn.Module, structure: Structure) -> None:
    """Remove from a classifier, in place, all heads, units and hidden dimensions that `structure` does not keep.

    Indices refer to the network as it is. The kept part of the original network is recorded (`structure_of`), so that
    a squeezed network can be squeezed again; the configuration stays that of the original. Parameters become new
    tensors: create the optimiser afterwards.

    A network without some heads and units computes the same as with their weights set to zero (Michel et al. 2019,
    arXiv 1905.10650, equation 1; squeezing: Fan et al. 2021, arXiv 2108.12594). One set of hidden dimensions applies to
    the whole residual stream: the embeddings' output, every LayerNorm, the inputs and outputs of layers, the
    classifier's input. LayerNorm then computes mean and variance over the kept dimensions. So logits equal those of the
    masked network only if the kept dimensions have the mean and variance of all; otherwise training has to recover.

    Raises:
        CheckpointError: the architecture is unknown, or the structure keeps parts that the network does not have. The
            network is unchanged then.
    """
    layers = encoder_layers(model)
    _check(layers, structure)
    before = structure_of(model)
    record = structure if before is None else compose(before, structure)
    stream = [] if structure.hidden is None else _residual_stream(model, layers)
    for layer, heads, units in zip(layers, structure.heads, structure.units, strict=True):
        _keep_heads(layer, heads)
        _keep_rows(layer.unit_rows, units)
        _keep_inputs(layer.output, units)
    for keep, module in stream:
        keep(module, structure.hidden or ())
    setattr(model, _RECORD, record)


def structure_of(model: nn.Module) -> Structure | None:
    """Return the part of the original network that a squeezed network keeps; None if it was never squeezed."""
    structure: Structure | None = getattr(model, _RECORD, None)
    return structure


def _check(layers: list[EncoderLayer], structure: Structure) -> None:
    compose(
        Structure(
            heads=tuple(tuple(range(layer.heads)) for layer in layers),
            units=tuple(tuple(range(layer.units)) for layer in layers),
            hidden=tuple(range(layers[0].query.in_features)),
        ),
        structure,
    )


def _residual_stream(model: Any, layers: list[EncoderLayer]) -> list[Narrowing]:
    """Return every module that reads or writes hidden states, with the function that narrows it."""
    architecture, modules = architecture_of(model.config), dict(model.base_model.named_modules())
    readers = [module for name, module in model.named_modules() if name.endswith(architecture.head_readers)]
    if not readers:
        raise CheckpointError(
            f"{type(model).__name__} has no linear that reads hidden states with one of the names "
            f"{', '.join(architecture.head_readers)}. Set squeeze.hidden to 1 in the recipe."
        )
    # Embeddings that are projected to the hidden size may have another width, and so do norms before the projection.
    project = modules.get(architecture.embedding_projection or "")
    stream: list[Narrowing] = []
    if project is not None and architecture.embedding_projection:
        stream.append((_keep_outputs, project))
        if architecture.embedding_projection.startswith("embeddings."):
            stream += _norms(modules["embeddings"])
    else:
        stream += _tables(modules["embeddings"]) + _norms(modules["embeddings"])
    for layer in layers:
        readers_of_layer = [layer.query.linear, layer.key.linear, layer.value.linear]
        readers_of_layer += [rows.linear for rows in layer.unit_rows]
        readers_of_layer += [m for m in (layer.position_query, layer.position_key) if m is not None]
        stream += [(_keep_inputs, module) for module in dict.fromkeys(readers_of_layer)]
        stream += [(_keep_outputs, module) for module in (layer.attention_output, layer.output)]
        stream += _norms(layer.module)
    for name in architecture.hidden_modules:
        if name in modules:
            stream += _tables(modules[name]) + _norms(modules[name])
    return stream + [(_keep_inputs, module) for module in readers]


def _tables(within: nn.Module) -> list[Narrowing]:
    return [(_keep_columns, module) for module in within.modules() if isinstance(module, nn.Embedding)]


def _norms(within: nn.Module) -> list[Narrowing]:
    return [(_keep_features, module) for module in within.modules() if isinstance(module, nn.LayerNorm)]


def _keep_heads(layer: EncoderLayer, heads: Indices) -> None:
    if len(heads) == layer.heads:
        return
    features = tuple(head * layer.head_size + place for head in heads for place in range(layer.head_size))
    _keep_rows((layer.query, layer.key, layer.value), features)
    for linear in (layer.position_query, layer.position_key):
        if linear is not None:
            _keep_outputs(linear, features)
    _keep_inputs(layer.attention_output, features)
    attention: Any = layer.attention
    # transformers stores these on the module, and MPNet's attention computes shapes from them.
    for name, size in (("num_attention_heads", len(heads)), ("n_heads", len(heads)), ("all_head_size", len(features))):
        if hasattr(attention, name):
            setattr(attention, name, size)
    if "position_bias" in inspect.signature(attention.forward).parameters:
        _keep_position_bias(attention, heads)


def _keep_position_bias(attention: nn.Module, heads: Indices) -> None:
    """Make a layer of MPNet select its heads from the position bias [1, heads, query, key] that all layers share."""
    kept = torch.tensor(heads, device=next(attention.parameters()).device)
    earlier = getattr(attention, _BIAS_HEADS, None)
    if earlier is None:
        attention.register_forward_pre_hook(_select_position_bias)
    # Not saved with the weights: the structure file has the same information.
    attention.register_buffer(_BIAS_HEADS, kept if earlier is None else earlier[kept], persistent=False)


def _select_position_bias(attention: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    hidden_states, attention_mask, position_bias = arguments
    return hidden_states, attention_mask, position_bias.index_select(1, attention.get_buffer(_BIAS_HEADS))


def _keep_rows(projections: Iterable[Projection], kept: Indices) -> None:
    """Keep the same outputs of several projections; those that share a linear are all of its groups."""
    for projection in projections:
        if projection.group == 0:
            size, groups = projection.out_features, range(projection.groups)
            _keep_outputs(projection.linear, tuple(group * size + place for group in groups for place in kept))


def _keep_outputs(linear: nn.Linear, kept: Indices) -> None:
    _keep(linear, "weight", kept, 0)
    if linear.bias is not None:
        _keep(linear, "bias", kept, 0)
    linear.out_features = len(kept)


def _keep_inputs(linear: nn.Linear, kept: Indices) -> None:
    _keep(linear, "weight", kept, 1)
    linear.in_features = len(kept)


def _keep_columns(embedding: nn.Embedding, kept: Indices) -> None:
    _keep(embedding, "weight", kept, 1)
    embedding.embedding_dim = len(kept)


def _keep_features(norm: nn.LayerNorm, kept: Indices) -> None:
    _keep(norm, "weight", kept, 0)
    if norm.bias is not None:
        _keep(norm, "bias", kept, 0)
    norm.normalized_shape = (len(kept),)


def _keep(module: nn.Module, name: str, kept: Indices, dimension: int) -> None:
    parameter = module.get_parameter(name)
    values = parameter.detach().index_select(dimension, torch.tensor(kept, device=parameter.device))
    setattr(module, name, nn.Parameter(values, requires_grad=parameter.requires_grad))
