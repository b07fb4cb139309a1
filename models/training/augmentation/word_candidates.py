"""Replacement candidates for words: neighbours in the input embeddings, and masked-LM predictions."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from sparserve.models.distributed import uses_gpu
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.types import Progress

Span = tuple[int, int]  # begin and end of a word in its text, in characters
Words = tuple[str, ...]

# Combining marks, such as separate accents and vowel signs, which `\w` does not match.
_MARKS: Final = "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code))[0] == "M")
_LETTER: Final = rf"[^\W\d_][{_MARKS}]*"
_WORD: Final = re.compile(rf"(?<![\w{_MARKS}])(?:{_LETTER})+(?:['’](?:{_LETTER})+)*(?![\w{_MARKS}])")
_MASKED_EVERY: Final = 7  # words between two masks: masked-LMs are trained with 15 % of the tokens masked
_MAX_TOKENS: Final = 256  # of a text that the masked LM reads
_TEXTS_PER_BATCH: Final = 32
_WORDS_PER_BLOCK: Final = 512


def find_words(text: str) -> list[Span]:
    """Return the spans of the words of a text: letters with their accents and vowel signs, apostrophes inside.

    Single letters are skipped: most are parts of words, such as the s of "Bob 's".
    """
    return [match.span() for match in _WORD.finditer(text) if sum(map(str.isalpha, match.group())) > 1]


def has_masked_lm_head(checkpoint: Checkpoint) -> bool:
    """Return True if the checkpoint has a masked-LM head. Reads only the headers of its weight files."""
    return any(checkpoint.architecture.masked_lm_parameter in _names(path) for path in _weight_files(checkpoint))


class Vocabulary:
    """The whole words among the tokens of a checkpoint: tokens whose text is tokenised as that one token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, candidates: int) -> None:
        """Collect the words. `best` returns `candidates` of them for a word.

        Raises:
            RecipeError: the vocabulary has too few words.
        """
        self.tokenizer = tokenizer
        self.candidates = candidates
        tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        texts = [tokenizer.convert_tokens_to_string([token]).strip() for token, _ in tokens]
        possible = [(text, index) for text, (_, index) in zip(texts, tokens, strict=True) if _is_word(text)]
        pieces = self.pieces([text for text, _ in possible])
        whole = [(text, index) for (text, index), ids in zip(possible, pieces, strict=True) if ids == (index,)]
        if len(whole) <= candidates:
            raise RecipeError(
                f"augmentation.candidates is {candidates}, but the vocabulary of the tokenizer has only {len(whole)} "
                f"words, including the word to replace. Set it to at most {max(len(whole) - 1, 0)}."
            )
        self.words = [text for text, _ in whole]
        self.ids = torch.tensor([index for _, index in whole])
        self._columns: dict[str, list[int]] = defaultdict(list)
        for column, text in enumerate(self.words):
            self._columns[text.casefold()].append(column)

    def pieces(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of each word within a text; an empty tuple if a piece is unknown."""
        if not words:
            return []
        # In byte-level tokenizers a word after a space is another token than the same word at the start.
        rows = self.tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
        return [() if self.tokenizer.unk_token_id in ids else tuple(ids) for ids in rows]

    def best(self, scores: torch.Tensor, pieces: Sequence[tuple[int, ...]]) -> list[Words]:
        """Return the words with the highest scores [rows, words] of each row, except the row's own word in any case."""
        rows, columns = [], []
        for row, own in enumerate(pieces):
            text = self.tokenizer.convert_tokens_to_string(self.tokenizer.convert_ids_to_tokens(list(own)))
            same = self._columns.get(text.strip().casefold(), [])
            rows += [row] * len(same)
            columns += same
        scores[rows, columns] = -torch.inf
        values, places = scores.topk(self.candidates, dim=1)
        kept = values.isfinite().tolist()
        return [
            tuple(self.words[place] for place, keep in zip(row_places, keeps, strict=True) if keep)
            for row_places, keeps in zip(places.tolist(), kept, strict=True)
        ]


def neighbours(
    checkpoint: Checkpoint, vocabulary: Vocabulary, words: Sequence[str], progress: Progress
) -> dict[str, Words]:
    """Return the nearest whole words of each word in the checkpoint's input embeddings, by cosine, nearest first.

    The embedding of a word of several pieces is the mean over its pieces. Words that the tokenizer does not know have
    no neighbours and no key.

    Raises:
        CheckpointError: the checkpoint has no token embeddings.
    """
    table = _token_table(checkpoint)
    targets = functional.normalize(table[vocabulary.ids], dim=1)
    pieces = dict(zip(words, vocabulary.pieces(words), strict=True))
    distinct = [own for own in dict.fromkeys(pieces.values()) if own]
    nearest: dict[tuple[int, ...], Words] = {}
    for begin in range(0, len(distinct), _WORDS_PER_BLOCK):
        block = distinct[begin : begin + _WORDS_PER_BLOCK]
        means = torch.stack([table[list(own)].mean(0) for own in block])
        scores = functional.normalize(means, dim=1) @ targets.T
        nearest |= dict(zip(block, vocabulary.best(scores, block), strict=True))
        progress(len(nearest), len(distinct), "words")
    return {word: nearest[own] for word, own in pieces.items() if own}


def masked_lm_predictions(
    checkpoint: Checkpoint, vocabulary: Vocabulary, texts: Sequence[str], progress: Progress
) -> list[dict[Span, Words]]:
    """Return, for each text, the masked-LM predictions in place of each word that is a single token.

    Every seventh word of a text is masked at the same time. Words beyond the first 256 tokens have no predictions.

    Raises:
        CheckpointError: the masked LM cannot be loaded, or its tokenizer has no mask token.
    """
    if vocabulary.tokenizer.mask_token_id is None:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} has no mask token. Set augmentation.source to embeddings."
        )
    model = _masked_lm(checkpoint)
    config: Any = checkpoint.config
    max_length = min(_MAX_TOKENS, config.max_position_embeddings - 2)
    predictions: list[dict[Span, Words]] = [{} for _ in texts]
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
    for begin in range(0, len(order), _TEXTS_PER_BATCH):
        batch = order[begin : begin + _TEXTS_PER_BATCH]
        encoded = vocabulary.tokenizer(
            [texts[index] for index in batch], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
        for masked in _masks([texts[index] for index in batch], encoded):
            rows, positions = (torch.tensor([place[axis] for place in masked.values()]) for axis in (0, 1))
            ids = encoded["input_ids"].clone()
            own = [(token,) for token in ids[rows, positions].tolist()]
            ids[rows, positions] = vocabulary.tokenizer.mask_token_id
            logits = _predict(model, {**encoded, "input_ids": ids}, rows, positions)
            best = vocabulary.best(logits[:, vocabulary.ids], own)
            for (row, span), words in zip(masked, best, strict=True):
                predictions[batch[row]][span] = words
        progress(min(begin + _TEXTS_PER_BATCH, len(order)), len(order), "texts read by the masked LM")
    return predictions


def _masks(texts: Sequence[str], encoded: Any) -> Iterator[dict[tuple[int, Span], tuple[int, int]]]:
    """Yield the words to mask together: row and span of each, with row and position of its token."""
    for first in range(_MASKED_EVERY):
        masked = {}
        for row, text in enumerate(texts):
            for span in find_words(text)[first::_MASKED_EVERY]:
                position = encoded.char_to_token(row, span[0])
                if position is not None and position == encoded.char_to_token(row, span[1] - 1):
                    masked[row, span] = (row, position)
        if masked:
            yield masked


@torch.inference_mode()
def _predict(
    model: nn.Module, inputs: dict[str, torch.Tensor], rows: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Return logits [masks, vocabulary] at these positions; the head, as costly as the encoder, runs only there."""

    def keep_masked(module: nn.Module, arguments: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[rows, positions].unsqueeze(0)
        return outputs

    encoder: Any = getattr(model, str(model.base_model_prefix))
    handle = encoder.register_forward_hook(keep_masked)
    device = next(model.parameters()).device
    try:
        logits: torch.Tensor = model(**{name: value.to(device) for name, value in inputs.items()}).logits[0]
        return logits.cpu()
    finally:
        handle.remove()


def _masked_lm(checkpoint: Checkpoint) -> nn.Module:
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise many kinds
        raise CheckpointError(
            f"{checkpoint.folder} cannot be loaded as a masked LM ({error}). Set augmentation.source to embeddings."
        ) from error
    if report["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.folder} lacks parts of a masked LM, such as {min(report['missing_keys'])}. "
            "Set augmentation.source to embeddings."
        )
    loaded: nn.Module = model
    return loaded.eval().to("cuda" if uses_gpu() else "cpu")


def _token_table(checkpoint: Checkpoint) -> torch.Tensor:
    ending = f"{checkpoint.architecture.token_table}.weight"
    for path in _weight_files(checkpoint):
        for name in _names(path):
            if name.endswith(ending):
                with safe_open(path, framework="pt") as weights:
                    table: torch.Tensor = weights.get_tensor(name)
                    return table.float()
    raise CheckpointError(f"{checkpoint.folder} has no token embeddings ({ending}). Save the network again.")


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as weights:
        return list(weights.keys())


def _weight_files(checkpoint: Checkpoint) -> list[Path]:
    return sorted(checkpoint.folder.glob("*.safetensors"))


def _is_word(text: str) -> bool:
    return find_words(text) == [(0, len(text))]
