"""Checkpoints: folders with a network and its tokenizer, checked before any use."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForSequenceClassification

from sparserve.models.encoders.architectures.architecture import Architecture
from sparserve.models.encoders.architectures.registry import ARCHITECTURES, architecture_of
from sparserve.models.encoders.configuration import read_config
from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.encoders.structure import STRUCTURE, Structure, load_structure
from sparserve.models.encoders.tokenizer import read_tokenizer
from sparserve.models.encoders.weights import check_weights, read_tensors, saved_tensors
from sparserve.models.errors import CheckpointError, SparserveError
from sparserve.models.files import faults_explained, machine_fault, sha256

# File beside the weights with the pruning section of the recipe and the names of the pruned matrices.
PRUNED = "pruning.json"
NETWORK = ("config.json", STRUCTURE, PRUNED, "*.safetensors", "*.safetensors.index.json")
# The files that decide how texts become tokens: `tokenizer_config.json` overrides `tokenizer.json`.
TOKENISATION = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Checkpoint:
    """A folder with an encoder's configuration, safetensors weights and fast tokenizer."""

    folder: Path
    name: str
    model_type: str
    digest: str

    @cached_property
    def config(self) -> transformers.PreTrainedConfig:
        """The configuration of the network. Shared: copy it before changing it."""
        return read_config(self.folder)

    @property
    def architecture(self) -> Architecture:
        """The entry of the network's family in the registry."""
        return ARCHITECTURES[self.model_type]

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states; of a squeezed network, the width that is left."""
        structure = load_structure(self.folder)
        kept = structure.hidden if structure else None
        return int(self.config.hidden_size) if kept is None else len(kept)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels that a fine-tuned checkpoint predicts, in the order of its logits."""
        names = self.config.id2label
        return tuple(str(names[index]) for index in sorted(names))

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The fast tokenizer, which pads and truncates texts at their end, as the service does. Shared.

        Raises:
            CheckpointError: it has none.
        """
        return read_tokenizer(self.folder)

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer as it was read: the shared one remembers the truncation of its last call.

        Raises:
            CheckpointError: it has none.
        """
        read_tokenizer(self.folder).save_pretrained(folder)


def resolve_checkpoint(source: str, *, name: str | None = None) -> Checkpoint:
    """Find a checkpoint: a folder, or a Hub id (downloaded, or found in the local Hub cache).

    Raises:
        CheckpointError: there is none, it is unsafe to load, or it is not an encoder that can be compressed.
    """
    folder = find_folder(source)
    config = read_config(folder)
    _check_plausible(folder, config)
    load_structure(folder)  # refuses a forged structure before any work
    # The model card shows the folder's name rather than a path of this machine.
    return Checkpoint(
        folder,
        name or (source if not Path(source).is_dir() else folder.resolve().name),
        config.model_type,
        checkpoint_digest(folder),
    )


def find_folder(source: str) -> Path:
    """Return the folder of a checkpoint: a folder, or a Hub id (downloaded, or found in the local Hub cache).

    Raises:
        CheckpointError: there is none.
    """
    if Path(source).is_file():
        raise CheckpointError(f"{source} is a file: give the folder with config.json and the weights, unpacked")
    return Path(source) if Path(source).is_dir() else _from_hub(source)


def checkpoint_digest(folder: Path) -> str:
    """Return the SHA-256 of the files that decide what a network answers."""
    digest = hashlib.sha256()
    for path in _files(folder, (*NETWORK, *TOKENISATION)):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _check_plausible(folder: Path, config: Any) -> None:
    """Check that a network of this size can be in the files before anything of that size is made."""
    tensors = saved_tensors(folder)
    largest = max((size for tensor in tensors for size in tensor.shape), default=0)
    limits = {"num_hidden_layers": len(tensors)}
    if architecture_of(config).has_position_table(config):
        limits["max_position_embeddings"] = largest
    for name, limit in limits.items():
        if getattr(config, name) > limit:
            raise CheckpointError(
                f"{folder}/config.json: {name} is {getattr(config, name)}, but the weights are those of a smaller "
                "network: save both again"
            )


def adopt(folder: Path, checkpoint: Checkpoint) -> None:
    """Copy the network's files of a checkpoint into `folder`, and write its tokenizer there.

    Then there is a `tokenizer.json` that alone decides how texts become tokens. No other file is copied.

    Raises:
        CheckpointError: it has no tokenizer.
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    with faults_explained(folder):
        for path in _files(checkpoint.folder, NETWORK):
            shutil.copyfile(path, folder / path.name)
        checkpoint.save_tokenizer(folder)


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def load_classifier(
    folder: Path, label_names: Sequence[str], problem_type: str, *, seed: int = 0, attention: str | None = None
) -> nn.Module:
    """Load a checkpoint, squeezed or not, as a classifier of these labels, in eval mode.

    A missing or different head is drawn at random from the seed. `attention` is transformers' name of an attention
    implementation; None takes the architecture's fastest.

    Raises:
        CheckpointError: the weights do not fit the configuration, or the structure of a squeezed network, or are not
            finite numbers.
    """
    torch.manual_seed(seed)
    try:
        config: Any = read_config(folder)
        saved_labels = config.num_labels
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
        config.problem_type = problem_type
        structure = load_structure(folder)
        if structure is None:
            model = _load_whole(folder, config, attention)
        else:
            model = _load_squeezed(folder, structure, config, saved_labels, attention)
    except SparserveError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds of exception
        if fault := machine_fault(error, folder):
            raise fault from error
        raise CheckpointError(f"{folder} cannot be loaded as a classifier: {error}") from error
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise CheckpointError(
                f"{folder}: {name} holds values that are not finite numbers: its training failed, or the file is "
                "damaged; take an earlier checkpoint"
            )
    return model


def save_classifier(model: nn.Module, folder: Path) -> None:
    """Write configuration, weights and, of a squeezed network, the structure, as `load_classifier` reads them.

    Raises:
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    with faults_explained(folder):
        (folder / STRUCTURE).unlink(missing_ok=True)
        # Under the names that the pruning record and the graph have too.
        model.save_pretrained(folder, save_original_format=False)  # type: ignore[operator]
    structure = structure_of(model)
    if structure is not None:
        structure.save(folder)


def _load_whole(folder: Path, config: Any, attention: str | None) -> nn.Module:
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    # transformers draws weights that it does not find at random: right for a head, fatal for an encoder.
    match = check_weights(folder, model)
    drawn = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])} & match.loaded.keys()
    if drawn:
        raise CheckpointError(
            f"{folder}: transformers {transformers.__version__} did not load {min(drawn)}, which is in the file: save "
            "the network with this version"
        )
    for parameter in model.parameters():
        # transformers leaves parts of a weight that it splits as views of the whole, which safetensors does not write.
        if parameter.untyped_storage().nbytes() > parameter.nbytes:
            parameter.data = parameter.data.clone()
    loaded: nn.Module = model
    return loaded


def _load_squeezed(
    folder: Path, structure: Structure, config: Any, saved_labels: int, attention: str | None
) -> nn.Module:
    # The configuration is the whole network's: transformers has no layers of uneven width.
    model: nn.Module = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    squeeze(model, structure)
    match, own = check_weights(folder, model), model.state_dict()
    weights = read_tensors(match.loaded)
    for name, tensor in match.misshapen.items():
        drawn = tuple(own[name].shape)
        if (tensor.shape[0], drawn[0]) == (saved_labels, config.num_labels) and tensor.shape[1:] == drawn[1:]:
            weights[name] = own[name]
    model.load_state_dict(weights)
    return model.eval()


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=[*NETWORK, *TOKENISATION]))
    except HFValidationError as error:
        hint = f": give {path[1]}" if (path := re.search(r"huggingface\.co/([^?#]+?)(/tree/.*)?/?$", source)) else ""
        raise CheckpointError(f"{source} is neither a folder nor a Hub id of the form owner/name{hint}") from error
    except Exception as error:  # no network, no such repository, no access: the same advice
        raise CheckpointError(
            f"{source} is not a folder here, and the Hub did not give a model of that id ({type(error).__name__}); "
            "give the folder of a checkpoint saved with `save_pretrained`"
        ) from error
