"""Fine-tuned classifiers of any architecture of transformers: they answer texts, and are not compressed or exported."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparserve.models.encoders.architectures.registry import ARCHITECTURES
from sparserve.models.encoders.checkpoint import (
    Checkpoint,
    checkpoint_digest,
    find_folder,
    load_classifier,
    resolve_checkpoint,
)
from sparserve.models.encoders.configuration import CONFIG
from sparserve.models.errors import CheckpointError

# Fields whose network is not the one that transformers would load in its place.
REFUSED = ("auto_map", "quantization_config", "compression_config")


@dataclass(frozen=True)
class AnyClassifier(Checkpoint):
    """A classifier of an architecture that cannot be compressed here, such as a bigger teacher."""

    @cached_property
    def config(self) -> transformers.PreTrainedConfig:
        """The configuration of the network, read without running code of its folder."""
        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # a wrong field can raise any exception
            raise CheckpointError(
                f"{self.folder / CONFIG} is not a configuration that transformers knows: {error}"
            ) from error


def resolve_classifier(source: str) -> Checkpoint:
    """Find a fine-tuned classifier of any architecture: a folder, or a Hub id.

    Raises:
        CheckpointError: there is none, or it is unsafe to load.
    """
    folder = find_folder(source)
    fields = _read_fields(folder)
    if fields.get("model_type") in (*ARCHITECTURES, None):
        return resolve_checkpoint(source)
    for name in REFUSED:
        if fields.get(name):
            raise CheckpointError(
                f"{folder / CONFIG}: {name} is set, so transformers would load another network in its place: take a "
                f"checkpoint without {name}, in float32, float16 or bfloat16"
            )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has no weights in safetensors: save it with `save_pretrained`")
    name = source if not Path(source).is_dir() else folder.resolve().name
    return AnyClassifier(folder, name, str(fields["model_type"]), checkpoint_digest(folder))


def load_any_classifier(checkpoint: Checkpoint, label_names: tuple[str, ...], problem_type: str) -> nn.Module:
    """Load a fine-tuned classifier in eval mode, with its own head.

    Raises:
        CheckpointError: it cannot be loaded, or lacks weights such as those of its head.
    """
    if not isinstance(checkpoint, AnyClassifier):
        return load_classifier(checkpoint.folder, label_names, problem_type)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise many kinds of exception
        raise CheckpointError(f"{checkpoint.folder} cannot be loaded as a classifier: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"the teacher {checkpoint.name} has no saved weights of {missing[0]}, so it is not a fine-tuned "
            "classifier: fine-tune it on these labels first"
        )
    loaded: nn.Module = model
    return loaded.eval()


def _read_fields(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a configuration: it holds a JSON {type(fields).__name__}, not an object")
    return fields
