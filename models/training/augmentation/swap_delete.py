"""Texts with words swapped or deleted, which needs no vocabulary.

Two of the four operations of EDA (Wei & Zou 2019, arXiv 1901.11196): random swap, here of neighbours, and random
deletion. They break the grammar of a text, so its label may no longer hold; a teacher's answer does.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparserve.models.training.augmentation.word_candidates import Span, find_words

DELETED_FRACTION = 0.5  # of the changed words; the others change places with the next word


def swap_and_delete(text: str, variants: int, probability: float, generator: np.random.Generator) -> list[str]:
    """Return `variants` texts in which words, each chosen with this probability, are swapped with the next or deleted.

    Punctuation, single letters and all other characters stay where they are. The last word has no next one to be
    swapped with, and a word that a swap has moved is not moved again. The first word is kept if no other is left.
    """
    spans = find_words(text)
    changed = generator.random((variants, len(spans))) < probability
    deleted = generator.random((variants, len(spans))) < DELETED_FRACTION
    return [
        _changed(text, spans, change & ~delete, change & delete)
        for change, delete in zip(changed, deleted, strict=True)
    ]


def _changed(text: str, spans: Sequence[Span], swapped: npt.NDArray[np.bool_], deleted: npt.NDArray[np.bool_]) -> str:
    order = list(range(len(spans)))
    place = 0
    while place + 1 < len(order):
        if swapped[place]:
            order[place : place + 2] = order[place + 1], order[place]
            place += 1  # the word that came here is not moved again
        place += 1
    kept = [not deleted[word] for word in order]
    if kept and not any(kept):
        kept[0] = True
    result, end = "", 0
    for (begin, next_end), word, keep in zip(spans, order, kept, strict=True):
        result += _joined(result, text[end:begin])
        if keep:
            result += text[slice(*spans[word])]
        end = next_end
    return (result + _joined(result, text[end:])).rstrip()


def _joined(before: str, gap: str) -> str:
    """Return the characters between two words, without the space that a deleted word before them has left."""
    return gap[1:] if gap[:1].isspace() and (not before or before[-1].isspace()) else gap
