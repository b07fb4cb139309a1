"""Logits of texts, computed by the classifier that the service uses."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.inference import OnnxClassifier, memory_batches
from sparserve.models.bundle.long_texts import all_windows, encode, window_counts
from sparserve.models.bundle.manifest import SampleAnswer
from sparserve.models.bundle.text_tokenizer import TextTokenizer
from sparserve.models.bundle.windows import TRUNCATE, LongTexts, merge_windows
from sparserve.models.data.dataset import Split
from sparserve.models.types import Progress

BATCH_ROWS = 32
SAMPLE_TEXTS = (
    "A wonderful surprise from beginning to end.",
    "It was a waste of time and money, and I want both back.",
    "The parcel arrived on Tuesday; naïve façade, 100 %!",
)


def predict(
    model: Path,
    tokenizer: Path,
    split: Split,
    *,
    max_length: int,
    pad_token_id: int,
    threads: int,
    progress: Progress,
    library: Path | None = None,
    long_texts: LongTexts = TRUNCATE,
    problem_type: str = "single_label_classification",
) -> npt.NDArray[np.float32]:
    """Return the logits [rows, labels] of a split, computed in batches of rows of similar length.

    `library` is that of the sparse runtime, for a graph that needs it. Rows that are too long have windows if
    `long_texts` says so, else they are truncated; the answers of windows are merged as for a `problem_type`.
    """
    classifier = OnnxClassifier(model, pad_token_id=pad_token_id, threads=threads, library=library)
    treatment = long_texts if long_texts.windowed else TRUNCATE
    rows = encode(TextTokenizer(tokenizer, max_length), split.texts, split.text_pairs, treatment, model="the recipe")
    tokens = all_windows(rows)
    order = sorted(range(len(tokens)), key=lambda row: (len(tokens[row]), row))
    parts: list[npt.NDArray[np.float32]] = []
    for batch in memory_batches([len(tokens[row]) for row in order], BATCH_ROWS):
        parts.append(classifier.logits([tokens[row] for row in order[batch]]))
        progress(batch.stop, len(order), "rows")
    logits = np.concatenate(parts)
    result = np.empty_like(logits)
    result[order] = logits
    return merge_windows(result, window_counts(rows), problem_type, treatment.aggregate)


def sample_answers(model: Path, tokenizer: Path, *, max_length: int, pad_token_id: int) -> tuple[SampleAnswer, ...]:
    """Return the logits of a few texts, computed one at a time on one thread, as a reference for other machines."""
    classifier = OnnxClassifier(model, pad_token_id=pad_token_id, threads=1)
    tokens = TextTokenizer(tokenizer, max_length).encode(SAMPLE_TEXTS)
    logits = [classifier.logits([row])[0] for row in tokens]
    return tuple(
        SampleAnswer(text=text, logits=tuple(round(float(value), 5) for value in row))
        for text, row in zip(SAMPLE_TEXTS, logits, strict=True)
    )
