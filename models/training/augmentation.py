"""Data augmentation: more training texts by replacing words with similar ones, labels copied.

TinyBERT, Jiao et al. 2020, arXiv 1909.10351, algorithm 1; SparseBERT trains on it, Xu et al. 2021, arXiv 2104.08682.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sparserve.models.data.dataset import Split
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError, DataError
from sparserve.models.files import write_atomically
from sparserve.models.recipes.schema import Augmentation
from sparserve.models.training.word_candidates import (
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
    """The rows of a split, and after them up to `variants` new ones of each, row by row.

    In a new row each word of the text, and of the text pair, is replaced with probability p by one of its candidates:
    masked-LM predictions for a word that is a single token, where the checkpoint has the head, else neighbours in the
    checkpoint's input embeddings. Rows that equal the original or an earlier one of the same row are left out. What is
    drawn for a row follows from the seed and the row's place alone.

    Raises:
        CheckpointError: masked-LM predictions are asked of a checkpoint without that head.
        RecipeError: more candidates than the vocabulary has words.
    """
    vocabulary, head = check_augmentation(checkpoint, augmentation)
    columns = [split.texts] if split.text_pairs is None else [split.texts, split.text_pairs]
    texts = list(dict.fromkeys(text for column in columns for text in column))
    candidates = _candidates(texts, checkpoint, vocabulary, head, progress)
    made: list[tuple[str, ...]] = []
    sources: list[int] = []
    for row, parts in enumerate(zip(*columns, strict=True)):
        generator = np.random.default_rng([seed, row])
        variants = [_variants(part, candidates[part], augmentation, generator) for part in parts]
        distinct = dict.fromkeys(zip(*variants, strict=True))
        distinct.pop(parts, None)
        made += distinct
        sources += [row] * len(distinct)
        if row % 1000 == 999 or row + 1 == len(split):
            progress(row + 1, len(split), "rows")
    return Split(
        [*split.texts, *(parts[0] for parts in made)],
        [*split.text_pairs, *(parts[1] for parts in made)] if split.text_pairs is not None else None,
        [*split.labels, *(split.labels[row] for row in sources)],
    )


def check_augmentation(checkpoint: Checkpoint, augmentation: Augmentation) -> tuple[Vocabulary, bool]:
    """The words that can stand in for others, and whether a masked LM is asked before their embeddings are.

    Raises:
        CheckpointError: masked-LM predictions are asked of a checkpoint without that head.
        RecipeError: more candidates than the vocabulary has words.
    """
    head = augmentation.source != "embeddings" and has_masked_lm_head(checkpoint)
    if augmentation.source == "masked-lm" and not head:
        raise CheckpointError(
            f"{checkpoint.name} has no masked-LM head to predict words with: set augmentation.source to embeddings, "
            "or give a checkpoint that was saved with its head"
        )
    return Vocabulary(checkpoint.tokenizer(), augmentation.candidates), head


def write_split(split: Split, path: Path) -> None:
    """Write a split as JSON lines.

    Raises:
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split.rows()))


def read_split(path: Path) -> Split:
    """Read what `write_split` wrote.

    Raises:
        DataError: the file is missing or holds something else.
    """
    try:
        # Not splitlines(), which also breaks at characters that JSON leaves as they are.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        pairs = [row["text_pair"] for row in rows if "text_pair" in row]
        split = Split([row["text"] for row in rows], pairs or None, [row["label"] for row in rows])
        if len(pairs) not in (0, len(rows)):
            raise ValueError(f"{len(pairs)} of {len(rows)} rows have a text pair")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a split of labelled rows as JSON lines ({error}): remove it") from error
    return split


def _candidates(
    texts: Sequence[str], checkpoint: Checkpoint, vocabulary: Vocabulary, masked_lm: bool, progress: Progress
) -> dict[str, Candidates]:
    """What can stand for each word of each text."""
    found: list[dict[Span, Words]] = [{} for _ in texts]
    if masked_lm:
        found = masked_lm_predictions(checkpoint, vocabulary, texts, progress)
    rest = {
        (index, span): text[slice(*span)]
        for index, text in enumerate(texts)
        for span in find_words(text)
        if span not in found[index]
    }
    near = neighbours(checkpoint, vocabulary, list(dict.fromkeys(rest.values())), progress)
    for (index, span), word in rest.items():
        if word in near:
            found[index][span] = near[word]
    return dict(zip(texts, found, strict=True))


def _variants(
    text: str, candidates: Candidates, augmentation: Augmentation, generator: np.random.Generator
) -> list[str]:
    """`variants` texts in which each word that has candidates was replaced with the given probability."""
    spans = sorted(span for span, words in candidates.items() if words)
    replaced = generator.random((augmentation.variants, len(spans))) < augmentation.probability
    drawn = generator.random((augmentation.variants, len(spans)))
    variants = []
    for chosen, draws in zip(replaced, drawn, strict=True):
        parts, end = [], 0
        for index in np.flatnonzero(chosen):
            begin, words = spans[index][0], candidates[spans[index]]
            parts += [text[end:begin], words[int(draws[index] * len(words))]]
            end = spans[index][1]
        variants.append("".join([*parts, text[end:]]))
    return variants
