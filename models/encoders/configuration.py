"""Configurations of encoders: read without running any code, and refused if they describe another network.

transformers ignores fields that its classes do not know. Some of them change what a network computes: its weights would
load, but the answers would be wrong.
"""

import codecs
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from sparserve.models.encoders.architectures.architecture import Architecture, Positions
from sparserve.models.encoders.architectures.registry import ARCHITECTURES, unknown
from sparserve.models.encoders.tokenizer import read_tokenizer
from sparserve.models.errors import CheckpointError

CONFIG: Final = "config.json"
SNAPSHOTS: Final = f"snapshots/*/{CONFIG}"  # in the local Hub cache
PROBLEM_TYPES: Final = ("regression", "single_label_classification", "multi_label_classification")
LFS_POINTER: Final = b"version https://git-lfs.github.com/"
# Model types whose code computes the same network.
SAME_NETWORKS: Final = frozenset({"roberta", "xlm-roberta", "camembert"})
# More labels than any classifier has; transformers makes a name for each before anything is checked.
MAX_NUM_LABELS: Final = 1_000_000
SIZES: Final = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings",
)  # fmt: skip
# Fields about the types, memory or output format of a run, which the job decides itself.
RUN_FIELDS: Final = (
    "_attn_implementation", "attn_implementation", "chunk_size_feed_forward", "configuration_files", "dtype",
    "experts_implementation", "output_attentions", "output_hidden_states", "return_dict", "torch_dtype", "torchscript",
    "use_return_dict",
)  # fmt: skip
CODE: Final = "auto_map"  # classes of code in the folder, or in another repository
POSITION_KINDS: Final[Mapping[Positions, str]] = {
    "table": "absolute",
    "table after padding": "absolute",
    "rotary": "rotary",
    "disentangled": "relative",
}
# Fields that make another network out of the same class, and the way out. Null, false, 0 and {} are harmless.
OTHER_NETWORKS: Final[Mapping[str, str]] = {
    CODE: "has code in its folder, which is never run, so the network that transformers would load in its place "
    "may be another one: take a checkpoint without auto_map, saved with the architecture of transformers",
    "quantization_config": "has quantised weights: save the network that they were made from, or "
    "`model.dequantize().save_pretrained(folder)`, with weights in float32 or float16",
    "compression_config": "has compressed weights: save the network with weights in float32 or float16",
    "is_decoder": "is a decoder, in which a token sees the earlier tokens only: take an encoder",
    "is_encoder_decoder": "is an encoder-decoder: take an encoder",
    "add_cross_attention": "has cross-attention to another network: take an encoder",
    "pruned_heads": "lacks attention heads, which transformers has not supported since version 5: take the checkpoint "
    "before its heads were pruned, and have `squeeze` remove them",
    "per_layer_config": "has layers that differ from each other: take a checkpoint with equal layers",
    "transformers_weights": "names another file of weights: rename that file to model.safetensors and remove the field",
}


def read_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of an encoder. A padding id that is null becomes that of the tokenizer.

    Raises:
        CheckpointError: there is no configuration, or not of an encoder that can be compressed, a field of it is wrong,
            or it describes another network than the one that would be loaded.
    """
    path, fields = folder / CONFIG, _read_fields(folder)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(f"{path} {unknown(model_type)}")
    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{path} is a {model_type!r} model, which transformers {transformers.__version__} does not have: upgrade it"
        )
    architecture = ARCHITECTURES[model_type]
    config_class: Any = CONFIG_MAPPING[model_type]
    _refuse_other_networks(path, fields, config_class, architecture)
    fields = _with_current_names(path, fields, architecture)
    try:
        config: Any = config_class.from_dict({name: fields[name] for name in fields if name not in RUN_FIELDS})
        config.name_or_path = str(folder)
    except Exception as error:  # a wrong field can raise any exception
        fault = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not a configuration that transformers knows: {fault}") from error
    _check_sizes(path, config, architecture)
    if reason := architecture.check(config):
        raise CheckpointError(f"{path}: {reason}")
    if config.pad_token_id is None:
        config.pad_token_id = read_tokenizer(folder).pad_token_id
    if not (_is_whole(config.pad_token_id, least=0) and config.pad_token_id < config.vocab_size):
        raise CheckpointError(
            f"{path}: pad_token_id is {config.pad_token_id!r}, but it must be one of the {config.vocab_size} tokens: "
            "set it to the id of the tokenizer's padding token"
        )
    names = config.id2label
    if sorted(names) != list(range(len(names))) or not all(
        isinstance(name, str | int | float) for name in names.values()
    ):
        raise CheckpointError(f"{path}: id2label must give every index from 0 a name: {names}")
    return config


def _read_fields(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if (folder / "adapter_config.json").is_file() or (folder / "adapter_model.safetensors").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json), not a whole network: merge it into its base model with "
            "`model.merge_and_unload().save_pretrained(folder)` of peft, and give that folder"
        )
    if not path.is_file():
        inner = sorted(
            str(one.parent.relative_to(folder)) for one in (*folder.glob("*/" + CONFIG), *folder.glob(SNAPSHOTS))
        )
        hint = f": give one of the folders in it, such as {folder / inner[-1]}" if inner else ""
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}{hint}")
    return read_json_fields(path)


def read_json_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a configuration in JSON.

    Raises:
        CheckpointError: the file is missing, not JSON, or holds no object.
    """
    try:
        content = path.read_bytes()
        if is_lfs_pointer(path):
            raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`")
        if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise CheckpointError(f"{path} begins with a byte order mark: save it as UTF-8 without one")
        fields = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a configuration: it holds a JSON {type(fields).__name__}, not an object")
    return fields


def is_lfs_pointer(path: Path) -> bool:
    """Return True if Git has put a pointer in the place of a large file."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _refuse_other_networks(
    path: Path, fields: Mapping[str, Any], config_class: type, architecture: Architecture
) -> None:
    for name, reason in OTHER_NETWORKS.items():
        if fields.get(name) and not (name == CODE and architecture.replaces_code):
            raise CheckpointError(f"{path}: {name} is set. This checkpoint {reason}.")
    positions = fields.get("position_embedding_type")
    if positions is not None and not (isinstance(positions, str) and positions in architecture.position_types):
        kind = POSITION_KINDS[architecture.positions]
        raise CheckpointError(
            f"{path}: position_embedding_type is {positions!r}, but transformers 5 computes {kind} positions only in a "
            f"{architecture.model_type!r} model: take a checkpoint that was trained with {kind} positions"
        )
    for name, plain in architecture.ignored_fields.items():
        if fields.get(name) not in (None, plain):
            raise CheckpointError(
                f"{path}: {name} is {fields[name]!r}, which transformers ignores: it computes the network that has "
                f"{plain!r}. Take a checkpoint that was trained so"
            )
    labels = fields.get("num_labels", 2)
    if not _is_whole(labels, least=1) or labels > MAX_NUM_LABELS:
        raise CheckpointError(f"{path}: num_labels is {labels!r}, but it must be a whole number of labels")
    problem = fields.get("problem_type")
    if problem not in (None, *PROBLEM_TYPES):
        raise CheckpointError(
            f"{path}: problem_type is {problem!r}, but transformers knows {', '.join(PROBLEM_TYPES)}: correct or "
            "remove it"
        )
    names = fields.get("id2label")
    if names is not None and not (isinstance(names, dict) and all(str(index).isdecimal() for index in names)):
        raise CheckpointError(
            f'{path}: id2label must give every index a name, as {{"0": "negative", "1": "positive"}} does: {names!r}'
        )
    if other := _other_family(fields):
        raise CheckpointError(
            f"{path}: architectures names {other}, but model_type is {fields['model_type']!r}, which computes another "
            "network from the same weights: correct the one that is wrong"
        )
    for name in fields:
        if name == "attribute_map" or callable(getattr(config_class, name, None)):
            raise CheckpointError(f"{path} has the field {name!r}, which no configuration has: remove it")


def _with_current_names(path: Path, fields: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """Return the fields under the names that transformers reads, without the names of code."""
    current = {name: value for name, value in fields.items() if name not in (CODE, *architecture.older_fields)}
    for older, name in architecture.older_fields.items():
        value = fields.get(older)
        if value is not None and current.setdefault(name, value) != value:
            raise CheckpointError(
                f"{path}: {older} is {value!r}, but {name} is {current[name]!r}, and both are names of one setting: "
                "correct the one that is wrong"
            )
    return current


def _other_family(fields: Mapping[str, Any]) -> str | None:
    """Return the class in `architectures` that belongs to another model type of transformers, if any."""
    architectures = fields.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        types = {
            model_type
            for model_type, model in MODEL_MAPPING_NAMES.items()
            if isinstance(model, str)
            and re.match(re.escape(model.removesuffix("Model")) + r"(Model|For|LMHead)", str(name))
        }
        same = SAME_NETWORKS if fields["model_type"] in SAME_NETWORKS else {fields["model_type"]}
        if types and types.isdisjoint(same):
            return str(name)
    return None


def _check_sizes(path: Path, config: Any, architecture: Architecture) -> None:
    for name in map(architecture.config_name, SIZES):
        size = getattr(config, name, None)
        if not _is_whole(size, least=1):
            raise CheckpointError(f"{path}: {name} is {size!r}, but it must be a whole number of at least 1")
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(
            f"{path}: hidden_size {config.hidden_size} is not divisible by {config.num_attention_heads} heads"
        )


def _is_whole(value: Any, *, least: int) -> bool:
    return type(value) is int and least <= value < 2**31
