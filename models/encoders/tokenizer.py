"""Fast tokenizers of checkpoints, which the service can run without transformers."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import transformers
from transformers import AutoTokenizer

from sparserve.models.errors import CheckpointError, EnvironmentFault

TOKENIZER: Final = "tokenizer.json"
SENTENCEPIECE: Final = ("sentencepiece.bpe.model", "spm.model")
TOKENIZER_FILES: Final = (TOKENIZER, "vocab.txt", "vocab.json", *SENTENCEPIECE, "spiece.model")


def read_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint, which pads and truncates texts at their end, as the service does.

    Raises:
        CheckpointError: there is none, it is empty or not a fast one, or it needs the code of its folder.
        EnvironmentFault: a package that converts it is not installed.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{folder} has no tokenizer: save one, with {TOKENIZER}, beside the model")
    _refuse_code(folder)
    _check_packages(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each kind of tokenizer raises other exceptions
        raise CheckpointError(f"{folder} has a tokenizer that transformers cannot read: {error}") from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{folder} has no fast tokenizer with a padding token: save one, with {TOKENIZER}, beside it"
        )
    # From a file of another family transformers silently makes a tokenizer that knows its special tokens alone.
    if not set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids):
        raise CheckpointError(
            f"{folder}: its {type(tokenizer).__name__} has no token besides {', '.join(tokenizer.all_special_tokens)}: "
            f"the vocabulary is missing or belongs to another kind of network; save the tokenizer, with {TOKENIZER}"
        )
    tokenizer.truncation_side = tokenizer.padding_side = "right"
    return tokenizer


def _refuse_code(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    try:
        fields = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if isinstance(fields, dict) and fields.get("auto_map"):
        raise CheckpointError(
            f"{path}: auto_map is set. This tokenizer has code in its folder, which is never run, and transformers may "
            "make other tokens without it: save a tokenizer of transformers"
        )


def _check_packages(folder: Path) -> None:
    """Check for the packages without which transformers takes the file of SentencePiece for one of tiktoken."""
    name = next((name for name in SENTENCEPIECE if (folder / name).is_file()), None)
    if (folder / TOKENIZER).is_file() or name is None:
        return
    for package, module in {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}.items():
        if not _is_installed(module):
            raise EnvironmentFault(
                f"{folder} has its tokenizer in {name} alone, and {package}, which converts it, is not "
                f'installed. Run: pip install "sparserve[compress]", or save the tokenizer with {TOKENIZER}'
            )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
