"""The rows of an augmented split: additional texts made of each row's own, and the labels copied.

Words are replaced by similar ones (TinyBERT, Jiao et al. 2020, arXiv 1909.10351, algorithm 1; SparseBERT trains on it,
Xu et al. 2021, arXiv 2104.08682), or swapped and deleted (EDA, Wei & Zou 2019).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sparserve.models.data.dataset import UNLABELED, Split
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError, DataError
from sparserve.models.files import write_atomically
from sparserve.models.recipes.schema import Augmentation
from sparserve.models.training.augmentation.swap_delete import swap_and_delete
from sparserve.models.training.augmentation.word_candidates import (
    Span,
    Vocabulary,
    Words,
    find_words,
    has_masked_lm_head,
    masked_lm_predictions,
    neighbours,
)
from sparserve.models.types import Progress

Candidates = Mapping[Span, Words]


def augment(
    split: Split, checkpoint: Checkpoint, augmentation: Augmentation, *, seed: int, progress: Progress
) -> Split:
    """Return the rows of a split, followed by up to `variants` new rows for each of them.

    In a new row each word of the text, and of the text pair, is changed with probability p: replaced by one of its
    candidates or, if the source is `swap-delete`, swapped with the next word or deleted. Candidates are masked-LM
    predictions for a word that is a single token, if the checkpoint has the head, and otherwise neighbours in the
    checkpoint's input embeddings. New rows that equal the original or an earlier new row of it are dropped. The random
    numbers of a row depend only on the seed and the position of the row.

    Raises:
        CheckpointError: the recipe asks for masked-LM predictions, but the checkpoint has no masked-LM head.
        RecipeError: the recipe asks for more candidates than the vocabulary has words.
    """
    columns = [split.texts] if split.text_pairs is None else [split.texts, split.text_pairs]
    texts = list(dict.fromkeys(text for column in columns for text in column))
    make_variants = _variant_maker(texts, checkpoint, augmentation, progress)
    new_rows: list[tuple[str, ...]] = []
    sources: list[int] = []
    for row, parts in enumerate(zip(*columns, strict=True)):
        generator = np.random.default_rng([seed, row])
        variants = [make_variants(part, generator) for part in parts]
        distinct = dict.fromkeys(zip(*variants, strict=True))
        distinct.pop(parts, None)
        new_rows += distinct
        sources += [row] * len(distinct)
        if row % 1000 == 999 or row + 1 == len(split):
            progress(row + 1, len(split), "rows")
    return Split(
        [*split.texts, *(parts[0] for parts in new_rows)],
        [*split.text_pairs, *(parts[1] for parts in new_rows)] if split.text_pairs is not None else None,
        [*split.labels, *(split.labels[row] for row in sources)],
    )


def check_augmentation(checkpoint: Checkpoint, augmentation: Augmentation) -> None:
    """Check that the checkpoint has what an augmentation needs.

    Raises:
        CheckpointError: the recipe asks for masked-LM predictions, but the checkpoint has no masked-LM head.
        RecipeError: the recipe asks for more candidates than the vocabulary has words.
    """
    if augmentation.source != "swap-delete":
        _vocabulary(checkpoint, augmentation)


def predicts_words(checkpoint: Checkpoint, augmentation: Augmentation) -> bool:
    """Return True if the checkpoint's masked LM proposes words before its embeddings do.

    Raises:
        CheckpointError: the recipe asks for masked-LM predictions, but the checkpoint has no masked-LM head.
    """
    head = augmentation.source in ("auto", "masked-lm") and has_masked_lm_head(checkpoint)
    if augmentation.source == "masked-lm" and not head:
        raise CheckpointError(
            f"{checkpoint.name} has no masked-LM head. Set augmentation.source to embeddings, or use a checkpoint that "
            "was saved with its head."
        )
    return head


def without_labels(split: Split, *, after: int, multi_label: bool) -> Split:
    """Return the split with no label in the rows from number `after` on: their target is a teacher's answer."""
    labels = [
        label if row < after else [UNLABELED] * len(label) if multi_label else UNLABELED
        for row, label in enumerate(split.labels)
    ]
    return replace(split, labels=labels)


def write_split(split: Split, path: Path) -> None:
    """Write a split as JSON lines.

    Raises:
        EnvironmentFault: the disk is full or the folder is not writable.
    """
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split.rows()))


def read_split(path: Path) -> Split:
    """Read a split that `write_split` wrote.

    Raises:
        DataError: the file is missing or invalid.
    """
    try:
        # Not splitlines(), which also splits at characters that JSON does not escape.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        pairs = [row["text_pair"] for row in rows if "text_pair" in row]
        split = Split([row["text"] for row in rows], pairs or None, [row["label"] for row in rows])
        if len(pairs) not in (0, len(rows)):
            raise ValueError(f"{len(pairs)} of {len(rows)} rows have a text pair")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a file of labelled rows as JSON lines ({error}). Remove it.") from error
    return split


def _variant_maker(
    texts: Sequence[str], checkpoint: Checkpoint, augmentation: Augmentation, progress: Progress
) -> Callable[[str, np.random.Generator], list[str]]:
    """Return the function that makes the variants of one of these texts."""
    variants, probability = augmentation.variants, augmentation.probability
    if augmentation.source == "swap-delete":
        return lambda text, generator: swap_and_delete(text, variants, probability, generator)
    vocabulary, masked_lm = _vocabulary(checkpoint, augmentation)
    candidates = _candidates(texts, checkpoint, vocabulary, masked_lm, progress)
    return lambda text, generator: _replaced(text, candidates[text], augmentation, generator)


def _vocabulary(checkpoint: Checkpoint, augmentation: Augmentation) -> tuple[Vocabulary, bool]:
    """Return the vocabulary of replacement words, and True if the masked LM is used before the embeddings."""
    masked_lm = predicts_words(checkpoint, augmentation)
    return Vocabulary(checkpoint.tokenizer, augmentation.candidates), masked_lm


def _candidates(
    texts: Sequence[str], checkpoint: Checkpoint, vocabulary: Vocabulary, masked_lm: bool, progress: Progress
) -> dict[str, Candidates]:
    """Return the replacement candidates of each word, by text and span."""
    candidates: list[dict[Span, Words]] = [{} for _ in texts]
    if masked_lm:
        candidates = masked_lm_predictions(checkpoint, vocabulary, texts, progress)
    other_words = {
        (index, span): text[slice(*span)]
        for index, text in enumerate(texts)
        for span in find_words(text)
        if span not in candidates[index]
    }
    near = neighbours(checkpoint, vocabulary, list(dict.fromkeys(other_words.values())), progress)
    for (index, span), word in other_words.items():
        if word in near:
            candidates[index][span] = near[word]
    return dict(zip(texts, candidates, strict=True))


def _replaced(
    text: str, candidates: Candidates, augmentation: Augmentation, generator: np.random.Generator
) -> list[str]:
    """Return `variants` texts in which each word with candidates is replaced with the recipe's probability."""
    spans = sorted(span for span, words in candidates.items() if words)
    replaced = generator.random((augmentation.variants, len(spans))) < augmentation.probability
    drawn = generator.random((augmentation.variants, len(spans)))
    variants = []
    for mask, draws in zip(replaced, drawn, strict=True):
        parts, end = [], 0
        for index in np.flatnonzero(mask):
            begin, words = spans[index][0], candidates[spans[index]]
            parts += [text[end:begin], words[int(draws[index] * len(words))]]
            end = spans[index][1]
        variants.append("".join([*parts, text[end:]]))
    return variants
