"""Checkpoints: folders with a network and its tokenizer, checked before any use."""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.encoders.structure import STRUCTURE, Structure, load_structure
from sparserve.models.errors import CheckpointError
from sparserve.models.files import faults_explained, machine_fault, sha256

# Encoders whose pruning, distillation and export are tested; their attention has separate query and key linears.
ENCODERS = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
# File beside the weights with the pruning section of the recipe and the names of the pruned matrices.
PRUNED = "pruning.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
WEIGHTS = "model.safetensors"
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
        """The configuration as transformers reads it. Shared: copy it before changing it."""
        return AutoConfig.from_pretrained(self.folder)

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

    def saved_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by its name. Only the headers of the files are read.

        Raises:
            CheckpointError: a file is damaged.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as weights:
                    shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} holds no weights that can be read: {error}") from error
        return shapes

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The fast tokenizer, which pads and truncates texts at their end, as the service does. Shared.

        Raises:
            CheckpointError: it has none.
        """
        return self._read_tokenizer()

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer as it was read: the shared one remembers the truncation of its last call.

        Raises:
            CheckpointError: it has none.
        """
        self._read_tokenizer().save_pretrained(folder)

    def _read_tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        # Without these files transformers silently makes an empty tokenizer.
        if not any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            raise CheckpointError(f"{self.folder} has no tokenizer: save one, with tokenizer.json, beside the model")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except Exception as error:  # each kind of tokenizer raises other exceptions
            raise CheckpointError(f"{self.folder} has a tokenizer that transformers cannot read: {error}") from error
        if not tokenizer.is_fast or tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"{self.folder} has no fast tokenizer with a padding token: save one, with tokenizer.json, beside it"
            )
        tokenizer.truncation_side = tokenizer.padding_side = "right"
        return tokenizer


def resolve_checkpoint(source: str, *, name: str | None = None) -> Checkpoint:
    """Find a checkpoint: a folder, or a Hub id (downloaded, or found in the local Hub cache).

    Raises:
        CheckpointError: there is none, it is unsafe to load, or it is not an encoder that can be compressed.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _from_hub(source)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # a wrong config.json can raise any exception
        raise CheckpointError(
            f"{folder}/config.json is not a configuration that transformers knows: {error}"
        ) from error
    if config.model_type not in ENCODERS:
        raise CheckpointError(
            f"{source} is a {config.model_type!r} model, not an encoder that can be compressed here; "
            f"those are: {', '.join(ENCODERS)}"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        why = "only pickled weights, which can run code when loaded" if pickled else "no weights"
        raise CheckpointError(f"{folder} has {why}: save it with `save_pretrained`, which writes {WEIGHTS}")
    load_structure(folder)  # refuses a forged structure before any work
    digest = hashlib.sha256()
    for path in _files(folder, (*NETWORK, *TOKENISATION)):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    # The model card shows the folder's name rather than a path of this machine.
    return Checkpoint(
        folder,
        name or (source if not Path(source).is_dir() else folder.resolve().name),
        config.model_type,
        digest.hexdigest(),
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
    labels = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": problem_type,
    }
    try:
        structure = load_structure(folder)
        if structure is None:
            model = _load_whole(folder, labels, attention)
        else:
            model = _load_squeezed(folder, structure, labels, attention)
    except CheckpointError:
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
        model.save_pretrained(folder)  # type: ignore[operator]
    structure = structure_of(model)
    if structure is not None:
        structure.save(folder)


def _load_whole(folder: Path, labels: dict[str, Any], attention: str | None) -> nn.Module:
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder,
        **labels,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    # transformers draws weights that do not fit at random: right for a head, fatal for an encoder.
    _refuse_drawn(folder, model, (name for name, *_ in report["mismatched_keys"]), "have another shape")
    _refuse_drawn(folder, model, (name for name in report["missing_keys"] if ".pooler." not in name), "are missing")
    loaded: nn.Module = model
    return loaded


def _refuse_drawn(folder: Path, model: nn.Module, names: Iterable[str], what: str) -> None:
    drawn = sorted(name for name in names if name.startswith(f"{model.base_model_prefix}."))
    if drawn:
        raise CheckpointError(
            f"{folder}: {len(drawn)} of the encoder's weights {what} in {WEIGHTS}, first {drawn[0]}: they do not fit "
            f"config.json, or the {STRUCTURE} that a squeezed network is saved with is gone; save the network again"
        )


def _load_squeezed(folder: Path, structure: Structure, labels: dict[str, Any], attention: str | None) -> nn.Module:
    # The configuration is the whole network's: transformers has no layers of uneven width.
    config = AutoConfig.from_pretrained(folder, **labels)
    model: nn.Module = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    squeeze(model, structure)
    weights, own = load_file(folder / WEIGHTS), model.state_dict()
    saved_labels = AutoConfig.from_pretrained(folder).num_labels
    for name, drawn in own.items():
        saved = weights.get(name)
        if name.startswith(f"{model.base_model_prefix}.") or saved is None or saved.shape == drawn.shape:
            continue
        if (saved.shape[0], drawn.shape[0]) == (saved_labels, config.num_labels) and saved.shape[1:] == drawn.shape[1:]:
            weights[name] = drawn
    model.load_state_dict(weights)
    return model.eval()


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=[*NETWORK, *TOKENISATION]))
    except HFValidationError as error:
        raise CheckpointError(f"{source} is neither a folder nor a Hub id of the form owner/name") from error
    except Exception as error:  # no network, no such repository, no access: the same advice
        raise CheckpointError(
            f"{source} is not a folder here, and the Hub did not give a model of that id ({type(error).__name__}); "
            "give the folder of a checkpoint saved with `save_pretrained`"
        ) from error
