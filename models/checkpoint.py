"""Checkpoints: where a network's weights come from, checked before anything is built on them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from models.errors import CheckpointError
from models.files import sha256

# Encoders whose pruning, distillation and export are tested; their attention has separate query and key linears.
ENCODERS = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
WEIGHTS = "model.safetensors"

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Checkpoint:
    """A folder with an encoder's configuration, safetensors weights and fast tokenizer."""

    folder: Path
    name: str
    model_type: str
    digest: str

    @property
    def config(self) -> transformers.PreTrainedConfig:
        """The configuration as transformers reads it."""
        return AutoConfig.from_pretrained(self.folder)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels that a fine-tuned checkpoint predicts, in the order of its logits."""
        names = self.config.id2label
        return tuple(str(names[index]) for index in sorted(names))

    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The checkpoint's fast tokenizer.

        Raises:
            CheckpointError: it has none.
        """
        # Without these files transformers makes up an empty tokenizer and says nothing.
        if not any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            raise CheckpointError(f"{self.folder} has no tokenizer: save one, with tokenizer.json, beside the model")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except Exception as error:  # transformers raises whatever its many tokenizers raise
            raise CheckpointError(f"{self.folder} has no tokenizer that transformers reads: {error}") from error
        if not tokenizer.is_fast or tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"{self.folder} has no fast tokenizer with a padding token: save one, with tokenizer.json, beside it"
            )
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
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # a wrong config.json can raise anything
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
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *weights, *folder.glob("tokenizer.json"), *folder.glob("vocab.*")]):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    # A folder's name says more to a reader of the model card than a path of the machine it was made on.
    return Checkpoint(
        folder,
        name or (source if not Path(source).is_dir() else folder.resolve().name),
        config.model_type,
        digest.hexdigest(),
    )


def load_classifier(
    folder: Path, label_names: Sequence[str], problem_type: str, *, seed: int = 0, attention: str = "sdpa"
) -> nn.Module:
    """Load a checkpoint as a classifier of these labels; a missing or different head is drawn from the seed.

    Raises:
        CheckpointError: the weights do not fit the configuration.
    """
    torch.manual_seed(seed)
    try:
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(label_names),
            id2label=dict(enumerate(label_names)),
            label2id={name: index for index, name in enumerate(label_names)},
            problem_type=problem_type,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            attn_implementation=attention,
        )
    except Exception as error:  # transformers and safetensors raise many kinds
        raise CheckpointError(f"{folder} cannot be loaded as a classifier: {error}") from error
    return model


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = [
        "config.json",
        "*.safetensors",
        "tokenizer*",
        "vocab*",
        "merges.txt",
        "special_tokens_map.json",
        "*.model",
    ]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except HFValidationError as error:
        raise CheckpointError(f"{source} is neither a folder nor a Hub id of the form owner/name") from error
    except Exception as error:  # no network, no such repository, no access: one way out
        raise CheckpointError(
            f"{source} is no folder here, and the Hub did not give a model of that id ({type(error).__name__}); "
            "give the folder of a checkpoint saved with `save_pretrained`"
        ) from error
