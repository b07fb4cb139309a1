"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): merged into their base model before anything else reads them."""

import hashlib
import warnings
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier, resolve_checkpoint, save_classifier
from sparserve.models.encoders.configuration import read_json_fields
from sparserve.models.encoders.tokenizer import TOKENIZER_FILES, read_tokenizer
from sparserve.models.errors import CheckpointError
from sparserve.models.files import settle, sha256, temporary_folder

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
# Initialisations that change the base model's weights, so that the adapter fits another network than it names.
CHANGED_BASES: Final = ("pissa", "olora", "corda", "eva", "loftq", "lora_ga")


def is_adapter(source: str) -> bool:
    """Return True if a source is a folder that holds an adapter."""
    return (Path(source) / ADAPTER_CONFIG).is_file()


def merge_adapter(folder: Path, cache: Path) -> Path:
    """Return the folder of an adapter's base model with the adapter merged, made once into `cache`.

    The base model is the folder or the Hub id that the adapter's configuration names; no code of either is run. Labels
    are those of the base model if it has as many as the adapter's head.

    Raises:
        CheckpointError: peft is not installed, the adapter is not one of LoRA, or it does not fit its base model.
        EnvironmentFault: the disk is full or the cache cannot be written.
    """
    fields = read_json_fields(folder / ADAPTER_CONFIG)
    _check_mergeable(folder, fields)
    base = _base_of(folder, str(fields["base_model_name_or_path"]))
    files = [folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS]
    key = hashlib.sha256(" ".join([base.digest, *map(sha256, files)]).encode()).hexdigest()[:16]
    target = cache / f"{folder.resolve().name}-merged-{key}"
    if not target.is_dir():
        with temporary_folder(cache) as stage:
            save_classifier(_merged(folder, base), stage)
            own = any((folder / name).is_file() for name in TOKENIZER_FILES)
            read_tokenizer(folder if own else base.folder).save_pretrained(stage)
            settle(stage, target)
    return target


def merge_note(folder: Path) -> str:
    """Return a sentence for the user about an adapter that is merged."""
    base = read_json_fields(folder / ADAPTER_CONFIG)["base_model_name_or_path"]
    note = f"{folder} holds an adapter: it is merged into its base model {base}"
    if (folder / "config.json").is_file():
        note += "; the folder's own config.json and the weights of that network are not used"
    return note


def _check_mergeable(folder: Path, fields: dict[str, Any]) -> None:
    by_hand = "merge it yourself with `model.merge_and_unload().save_pretrained(folder)` of peft, and give that folder"
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{folder} holds an adapter of type {kind}; only LORA is merged here: {by_hand}")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASES):
        raise CheckpointError(
            f"{folder}: init_lora_weights is {start!r}, which changes the base model before training: {by_hand}"
        )
    if not isinstance(fields.get("base_model_name_or_path"), str):
        raise CheckpointError(f"{folder}/{ADAPTER_CONFIG} names no base_model_name_or_path: {by_hand}")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} has no {ADAPTER_WEIGHTS}; other files of weights may run code and are never read: save the "
            "adapter again with safetensors"
        )


def _base_of(folder: Path, name: str) -> Checkpoint:
    try:
        return resolve_checkpoint(name)
    except CheckpointError as error:
        raise CheckpointError(f"the base model of the adapter {folder}: {error}") from error


def _merged(folder: Path, base: Checkpoint) -> Any:
    """Return the base model as a classifier, with the adapter's changes added to its weights."""
    try:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise CheckpointError(
            f"{folder} holds an adapter of {base.name}, which peft can merge: `pip install peft` and run the same "
            "command again, or give a folder saved with `model.merge_and_unload().save_pretrained(folder)`"
        ) from error
    weights = _read_weights(folder)
    names = _label_names(base, weights)
    network = load_classifier(base.folder, names, base.config.problem_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reads attributes of transformers that are deprecated
        try:
            settings = LoraConfig.from_pretrained(str(folder))
            settings.inference_mode = True
            model = get_peft_model(network, settings)
            result = set_peft_model_state_dict(model, weights)
            merged = model.merge_and_unload()
        except Exception as error:  # peft raises many kinds
            raise CheckpointError(f"{folder} does not fit its base model {base.name}: {error}") from error
    absent = [name for name in result.missing_keys if "lora_" in name]
    if result.unexpected_keys or absent:
        name = (*result.unexpected_keys, *absent)[0]
        raise CheckpointError(
            f"{folder} does not fit {base.name} as a classifier, which differ in {name}: train the adapter on a model "
            "for sequence classification (task_type SEQ_CLS)"
        )
    return merged


def _read_weights(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own class without a public base
        raise CheckpointError(f"{path} is not readable: {error}") from error


def _label_names(base: Checkpoint, weights: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels of the adapter's head: the base model's if it has as many, else numbers."""
    ends = ("classifier.weight", "classifier.out_proj.weight")
    heads = [tensor.shape[0] for name, tensor in weights.items() if name.endswith(ends)]
    count = int(heads[-1]) if heads else len(base.label_names)
    return base.label_names if count == len(base.label_names) else tuple(f"LABEL_{index}" for index in range(count))
