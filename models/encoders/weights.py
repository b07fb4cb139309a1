"""Saved weights by their names, compared with the network that is to load them.

A checkpoint is refused if it is another network than the code that would load it: a weight of the encoder without a
place in the network, or a place without a weight. transformers would drop the one and draw the other at random.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sparserve.models.encoders.architectures.architecture import StoredNames
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.configuration import is_lfs_pointer
from sparserve.models.encoders.structure import STRUCTURE
from sparserve.models.errors import CheckpointError

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
FLOATS: Final = ("F64", "F32", "F16", "BF16")
NAMED: Final = 3  # names in a message
# Saved beside an encoder, but not part of it: buffers, poolers, and heads of pre-training and of other tasks.
HARMLESS: Final = re.compile(
    r"(^|\.)position_ids$|(^|\.)token_type_ids$|(^|\.)inv_freq$|(^|\.)pooler\.|^(cls|lm_head|generator_predictions|"
    r"generator_lm_head|discriminator_predictions|vocab_transform|vocab_layer_norm|vocab_projector|qa_outputs|"
    r"sequence_summary|decoder|lm_predictions|mask_predictions)\."
)
# Parts of names that say how the network was saved, with the reason and the way out.
EXPLANATIONS: Final[Mapping[str, str]] = {
    r"(^|\.)_orig_mod\.": "it was saved from a network compiled by torch.compile: save the network inside, "
    "`model._orig_mod.save_pretrained(folder)`",
    r"(^|\.)_fsdp_wrapped_module\.": "it was saved from a sharded network: save it with "
    "`accelerator.unwrap_model(model).save_pretrained(folder)`",
    r"(^|\.)_checkpoint_wrapped_module\.": "it was saved from a network with activation checkpointing: save the "
    "network without it",
    r"^module\.": "it was saved from a distributed network: save the network inside, "
    "`model.module.save_pretrained(folder)`",
    r"lora_|\.base_layer\.|\.modules_to_save\.|^base_model\.model\.|\.ia3_": "it holds an adapter that is not merged: "
    "merge it with `model.merge_and_unload().save_pretrained(folder)` of peft",
    r"(^|\.)adapters?[_.]": "it holds adapter layers, which the network does not have: fine-tune the whole network",
    r"distance_embedding|relative_attention_bias": "it was trained with relative positions, which transformers 5 does "
    "not compute for this model_type: take a checkpoint with absolute positions",
    r"\.(qweight|qzeros|absmax|quant_map|quant_state|SCB|weight_packed|weight_scale|weight_scale_inv|weight_zero_point)"
    r"(\.|$)": "its weights are quantised: save the network with weights in float32 or float16",
    r"\.weight_(orig|mask)$": "it was saved while it was pruned: make the zeros permanent with "
    "`torch.nn.utils.prune.remove` and save it again",
    r"\.parametrizations\.": "it was saved with parametrizations: remove them with "
    "`torch.nn.utils.parametrize.remove_parametrizations` and save it again",
}  # fmt: skip


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a checkpoint: its file and name there, its shape and the type of its numbers.

    It may be one of several equal groups of the rows of a stored tensor.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int = 0
    groups: int = 1

    def split(self, groups: int) -> tuple["SavedTensor", ...]:
        """Return the groups of its rows; itself several times, if it has no such number of rows."""
        if groups == 1 or not self.shape or self.shape[0] % groups:
            return (self,) * groups
        shape = (self.shape[0] // groups, *self.shape[1:])
        return tuple(replace(self, shape=shape, group=group, groups=groups) for group in range(groups))


@dataclass(frozen=True)
class WeightMatch:
    """The saved tensors by the names of the network's weights, those of another shape apart; names without partner."""

    loaded: Mapping[str, SavedTensor]
    misshapen: Mapping[str, SavedTensor]
    missing: tuple[str, ...]
    unplaced: tuple[str, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads: the one file, or the shards that the index names.

    Raises:
        CheckpointError: there is none, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} has {_found_instead(folder)}: save it with `save_pretrained`, which writes {WEIGHTS}"
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        shards = [folder / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / INDEX} is not an index of weights: {error!r}") from error
    for name, shard in zip(names, shards, strict=True):
        if PurePosixPath(name).name != name or not shard.is_file():
            raise CheckpointError(
                f"{folder / INDEX} names {name!r}, which is not a file beside it: copy all its shards"
            )
    return shards


def saved_tensors(folder: Path) -> list[SavedTensor]:
    """Return every tensor of a checkpoint. Only the headers of the files are read.

    Raises:
        CheckpointError: there are no weights, or a file is damaged.
    """
    tensors = []
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    part = weights.get_slice(name)
                    tensors.append(SavedTensor(path, name, tuple(part.get_shape()), part.get_dtype()))
        except (OSError, SafetensorError) as error:
            if is_lfs_pointer(path):
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`"
                ) from error
            raise CheckpointError(
                f"{path} holds no weights that can be read: {error}. Copy or download it again"
            ) from error
    return tensors


def check_weights(folder: Path, network: nn.Module) -> WeightMatch:
    """Return the saved tensor of each weight of a network.

    Heads may be missing, have another shape or be another task's, and all poolers may be missing.

    Raises:
        CheckpointError: an encoder's weight is missing, has another shape, is saved twice or is not a float, or the
            file has a weight of an encoder that the network does not have.
    """
    prefix = f"{network.base_model_prefix}."
    match = _match(folder, network, prefix)
    poolers = [name for name in match.missing if ".pooler." in name]
    saved_pooler = any(".pooler." in name for name in match.loaded)
    missing = [name for name in match.missing if name.startswith(prefix) and (saved_pooler or name not in poolers)]
    bare = not any(tensor.name.startswith(prefix) for tensor in match.loaded.values())
    unplaced = [name for name in match.unplaced if bare or name.startswith(prefix) or _explanation([name])]
    misshapen = [name for name in match.misshapen if name.startswith(prefix)]
    if not (missing or unplaced or misshapen):
        return match
    facts = [
        f"{len(names)} {what}: {_listed(names)}"
        for names, what in (
            (misshapen, "of the encoder's weights have another shape"),
            (missing, "of the encoder's weights are missing"),
            (unplaced, "of the saved weights have no place in the network"),
        )
        if names
    ]
    way_out = (
        _explanation(match.unplaced)
        or _wrapper(match, prefix)
        or (
            f"they do not fit config.json, or the {STRUCTURE} of a squeezed network is gone or another one's; save the "
            "network again"
        )
    )
    raise CheckpointError(f"{folder}: {'; '.join(facts)}. The network that would be loaded is another one: {way_out}")


def _match(folder: Path, network: nn.Module, prefix: str) -> WeightMatch:
    own = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    loaded: dict[str, SavedTensor] = {}
    misshapen: dict[str, SavedTensor] = {}
    unplaced = []
    for name, tensor in _saved_parts(folder, architecture_of(network.config).stored):
        name = next((known for known in (name, prefix + name) if known in own), name)
        if name not in own:
            if not HARMLESS.search(name.removeprefix(prefix)):
                unplaced.append(tensor.name)
        elif other := loaded.get(name) or misshapen.get(name):
            raise CheckpointError(
                f"{folder} holds {name} twice, as {other.name} and as {tensor.name}: save the network again"
            )
        elif tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{folder}: {tensor.name} holds numbers of the type {tensor.dtype}, so its weights are quantised: save "
                "the network with weights in float32 or float16"
            )
        else:
            (loaded if own[name] == tensor.shape else misshapen)[name] = tensor
    missing = tuple(name for name in own if name not in loaded and name not in misshapen)
    return WeightMatch(loaded, misshapen, missing, tuple(dict.fromkeys(unplaced)))


def _saved_parts(folder: Path, stored: StoredNames) -> Iterator[tuple[str, SavedTensor]]:
    """Yield every tensor of a checkpoint, or its parts, by the names that transformers gives them."""
    for tensor in saved_tensors(folder):
        names = stored.in_network(tensor.name)
        for name, part in zip(names, tensor.split(len(names)), strict=True):
            yield re.sub(r"LayerNorm\.(gamma|beta)$", _modern, name), part


def read_tensors(tensors: Mapping[str, SavedTensor]) -> dict[str, torch.Tensor]:
    """Return the values of these tensors by the keys of the mapping."""
    values: dict[str, torch.Tensor] = {}
    for path in {tensor.path for tensor in tensors.values()}:
        with safe_open(path, framework="pt") as weights:
            for name, part in tensors.items():
                if part.path == path:
                    stored = weights.get_tensor(part.name)
                    values[name] = stored if part.groups == 1 else stored.chunk(part.groups)[part.group]
    return values


def _modern(legacy: re.Match[str]) -> str:
    """Return the name that a norm's parameter has had since TensorFlow's names were given up."""
    return "LayerNorm." + {"gamma": "weight", "beta": "bias"}[legacy[1]]


def _explanation(names: Iterable[str]) -> str | None:
    names = list(names)
    return next(
        (reason for pattern, reason in EXPLANATIONS.items() if any(re.search(pattern, name) for name in names)), None
    )


def _wrapper(match: WeightMatch, prefix: str) -> str | None:
    """Explain names that begin with the name of another module around the network."""
    for saved in match.unplaced:
        for name in match.missing:
            bare = name.removeprefix(prefix)
            if saved.endswith(f".{bare}") and not saved.startswith(prefix):
                outer = saved.removesuffix(name) if saved.endswith(name) else saved.removesuffix(bare)
                return (
                    f"its names begin with {outer!r}, so it was saved from another module around it: save the encoder "
                    "inside, or remove that beginning from the names"
                )
    return None


def _found_instead(folder: Path) -> str:
    if any(folder.glob("*.safetensors")):
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        return f"neither {WEIGHTS} nor {INDEX}, only {_listed(names)}"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")) or any(folder.glob("*.ckpt")):
        return "only pickled weights, which can run code when loaded"
    if any(folder.glob("*.h5")) or any(folder.glob("*.msgpack")):
        return "only weights of TensorFlow or Flax"
    return "no weights"


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
